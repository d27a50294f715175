//! Tests on real parts: a real Kubernetes cluster, real kernels' network namespaces, real connections, a real git
//! server. Programs: `demo` (walks the story of the README), `e2e` (the real-cluster tests), and the benchmarks `bench-e2e`,
//! `bench-fan-out` and `bench-agent`.

pub mod agent_bench;
pub mod bench;
pub mod demo;
pub mod e2e;
pub mod fan_out;
pub mod kernel;
pub mod lab;
pub mod manifests;
pub mod packets;
pub mod pod_start;
pub mod probe;
pub mod programs;
pub mod repo;
pub mod sctp;
pub mod source;
pub mod testbed;
pub mod wait;
