//! Work that is the same for many things and needs nothing but each of them.

use rayon::prelude::*;

/// So many things are worth being handed to another core.
const WORTH: usize = 64;

/// Does something with each of many things, by all cores if there are enough of them. The results are in their order.
pub fn map<T: Sync, R: Send>(things: &[T], work: impl Fn(&T) -> R + Sync + Send) -> Vec<R> {
    if things.len() <= WORTH {
        things.iter().map(work).collect()
    } else {
        things.par_iter().with_min_len(WORTH).map(work).collect()
    }
}
