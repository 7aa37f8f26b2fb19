"""Tests of `txtlsmc.wire.opcodes`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.errors import SERVER_ERRORS
from txtlsmc.wire.opcodes import (
    MAX_KEY,
    MAX_MECHANISM,
    OPCODES,
    QUIET_TWIN,
    Key,
    Opcode,
    Quiet,
    Shape,
    Status,
    opcode_name,
)

#: The request and the answer of each loud opcode: lengths of the extras, key, length of the value.
SHAPES = {
    "GET": ("0 key 0", "4 - any"),
    "SET": ("8 key any", "0 - 0"),
    "ADD": ("8 key any", "0 - 0"),
    "REPLACE": ("8 key any", "0 - 0"),
    "DELETE": ("0 key 0", "0 - 0"),
    "INCREMENT": ("20 key 0", "0 - 8"),
    "DECREMENT": ("20 key 0", "0 - 8"),
    "QUIT": ("0 - 0", "0 - 0"),
    "FLUSH": ("0,4 - 0", "0 - 0"),
    "NOOP": ("0 - 0", "0 - 0"),
    "VERSION": ("0 - 0", "0 - any"),
    "GETK": ("0 key 0", "4 echo any"),
    "APPEND": ("0 key any", "0 - 0"),
    "PREPEND": ("0 key any", "0 - 0"),
    "STAT": ("0 maybe 0", "0 maybe any"),
    "TOUCH": ("4 key 0", "0,4 - 0"),
    "GAT": ("4 key 0", "4 - any"),
    "SASL_LIST": ("0 - 0", "0 - any"),
    "SASL_AUTH": ("0 key any", "0 - any"),
    "SASL_STEP": ("0 key any", "0 - any"),
    "GATK": ("4 key 0", "4 echo any"),
}
#: From 0 on, without a gap.
IN_ORDER = """
    GET SET ADD REPLACE DELETE INCREMENT DECREMENT QUIT FLUSH GETQ NOOP VERSION GETK GETKQ APPEND
    PREPEND STAT SETQ ADDQ REPLACEQ DELETEQ INCREMENTQ DECREMENTQ QUITQ FLUSHQ APPENDQ PREPENDQ
"""
QUIET_WRITES = """
    SETQ ADDQ REPLACEQ APPENDQ PREPENDQ DELETEQ INCREMENTQ DECREMENTQ FLUSHQ QUITQ
"""
KEYS = {Key.NONE: "-", Key.REQUIRED: "key", Key.OPTIONAL: "maybe", Key.ECHOED: "echo"}


def written(shape: Shape) -> str:
    """Return *shape* in the words of `SHAPES`."""
    extras = ",".join(map(str, shape.extras))
    return f"{extras} {KEYS[shape.key]} {'any' if shape.value is None else shape.value}"


class OpcodeTests(SynchronousTestCase):
    def test_total(self) -> None:
        """Every opcode that memcached knows has its row, and no other has one."""
        known = {*range(0x00, 0x1B), *range(0x1C, 0x1F), *range(0x20, 0x25)}
        self.assertEqual(set(OPCODES), known)
        self.assertEqual({int(opcode) for opcode in Opcode}, known)
        for opcode, row in OPCODES.items():
            self.assertEqual(row.opcode, opcode)

    def test_numbers(self) -> None:
        """The numbers are those of the protocol's specification."""
        expected = {name: number for number, name in enumerate(IN_ORDER.split())}
        expected |= {"TOUCH": 0x1C, "GAT": 0x1D, "GATQ": 0x1E}
        expected |= {"SASL_LIST": 0x20, "SASL_AUTH": 0x21, "SASL_STEP": 0x22}
        expected |= {"GATK": 0x23, "GATKQ": 0x24}
        self.assertEqual({opcode.name: int(opcode) for opcode in Opcode}, expected)

    def test_shapes(self) -> None:
        """The legal lengths are those that memcached takes and sends."""
        loud = {
            row.opcode.name: (written(row.request), written(row.answer))
            for row in OPCODES.values()
            if row.loud == row.opcode
        }
        self.assertEqual(loud, SHAPES)

    def test_quiet_twins(self) -> None:
        """A quiet opcode is its loud twin, but for when it is answered."""
        for row in OPCODES.values():
            twin = OPCODES[row.loud]
            self.assertIs(twin.quiet, Quiet.NEVER)
            self.assertEqual(twin.loud, twin.opcode)
            self.assertEqual((row.request, row.answer), (twin.request, twin.answer))
            if row.quiet is Quiet.NEVER:
                self.assertEqual(row.loud, row.opcode)
            else:
                self.assertEqual(row.opcode.name, f"{twin.opcode.name}Q")
                self.assertEqual(QUIET_TWIN[row.loud], row.opcode)

    def test_quiet(self) -> None:
        """Quiet reads are silent on a miss, quiet writes on success, and the rest is answered."""
        on_miss = {row.opcode.name for row in OPCODES.values() if row.quiet is Quiet.ON_MISS}
        self.assertEqual(on_miss, {"GETQ", "GETKQ", "GATQ", "GATKQ"})
        on_success = {row.opcode.name for row in OPCODES.values() if row.quiet is Quiet.ON_SUCCESS}
        self.assertEqual(on_success, set(QUIET_WRITES.split()))
        self.assertEqual(len(QUIET_TWIN), 14)

    def test_limits(self) -> None:
        """The longest key and the longest name of a mechanism are memcached's."""
        self.assertEqual((MAX_KEY, MAX_MECHANISM), (250, 32))

    def test_name(self) -> None:
        """Every number has a name of its own to be shown by."""
        names = [opcode_name(number) for number in range(256)]
        self.assertEqual(len(set(names)), 256)
        self.assertEqual((names[0x00], names[0x24]), ("GET", "GATKQ"))
        self.assertEqual((names[0x1B], names[0xFF]), ("0x1b", "0xff"))


class StatusTests(SynchronousTestCase):
    def test_statuses(self) -> None:
        """Every status that memcached sends has a name."""
        occurring = {0, 1, 2, 3, 4, 5, 6, 0x20, 0x21, 0x81, 0x82}
        self.assertLessEqual(occurring, {int(status) for status in Status})

    def test_failures(self) -> None:
        """Every status is an error with a class, but success and the middle of an exchange."""
        self.assertEqual(
            {int(status) for status in Status} - set(SERVER_ERRORS),
            {Status.OK, Status.AUTHENTICATION_CONTINUE},
        )
        self.assertLessEqual(set(SERVER_ERRORS), {int(status) for status in Status})
