//! The event plane: change streams over committed writes.
