//! What the fuzz targets (`tests/fuzz`) do with their bytes. Here, so that a test on any compiler can replay the corpus.
//!
//! Both panic if something is not as it must be: that is what a fuzzer looks for.

mod compiler;
mod policy;

pub use compiler::compiler;
pub use policy::policy;
