//! The control plane: listeners, sessions, SQL, catalog, dispatch.
