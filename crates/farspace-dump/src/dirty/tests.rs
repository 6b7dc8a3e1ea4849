//! Tests of the tracker on children of this process.
