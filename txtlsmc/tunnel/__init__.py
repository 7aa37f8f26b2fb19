"""The tunnel: local memcached clients on one side, servers over verified TLS on the other."""
