//! x86-64: the code of the stub, its image, its filter, and where registers lie in a signal frame.

pub(crate) mod filter;
pub(crate) mod frame;
pub(crate) mod image;
mod starter;
mod steward;
mod vcpu;
pub(crate) mod xsave;

pub(crate) use vcpu::VcpuCode;
