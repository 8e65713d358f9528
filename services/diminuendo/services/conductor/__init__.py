"""The conductor: the only process that clients talk to, and the only owner of the database.

Layers, from the outside in: `servicers` (the wire), `watch` and `sweeper` (waiting), `store` (transactions),
`jobs` and `leases` (the rules, pure). It imports neither torch nor ray.
"""
