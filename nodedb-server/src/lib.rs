//! The composition root: configuration, start and stop, the embedded node.
