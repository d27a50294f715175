//! Policy without Kubernetes: `ringfence compile` writes a folder, `cven --objects --pods` puts it into the kernels of
//! three network namespaces, and real connections show it. Needs root.

mod disk;
mod lab;
mod node;
mod pods;
