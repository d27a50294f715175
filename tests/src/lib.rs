//! Tests on real parts: a real Kubernetes cluster, real kernels' network namespaces, real connections, a real git
//! server. Programs: `demo` (walks the story of the README) and `e2e` (the real-cluster tests).

pub mod bench;
pub mod demo;
pub mod e2e;
pub mod kernel;
pub mod lab;
pub mod manifests;
pub mod probe;
pub mod repo;
pub mod source;
pub mod testbed;
pub mod wait;
