//! Small target programs.
