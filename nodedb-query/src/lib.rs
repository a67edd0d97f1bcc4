//! The relational executor and the one expression engine; the only crate that knows DataFusion.
