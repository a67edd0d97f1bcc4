//! What crosses the planes and nothing else: plans, rings, reply streams, events, port traits.
