//! Bounds of what is read, so that whatever somebody pushes ends in bounded time and memory, with an error that says where.
//! Those of single fields are in the schemas; `docs/limits.md` lists all of them. What is over one is an error, and the source
//! is refused as a whole: nothing of it is applied in part.

/// Bytes that one file of policy may have.
pub const FILE_BYTES: usize = 2 << 20;
/// Bytes of a key: those of the longest annotation that Kubernetes takes (a prefix of 253, '/', 63). Paths are made of keys.
pub const KEY_BYTES: usize = 317;
/// Errors that are told of one document; people mend the first ones and look again.
pub const DOCUMENT_ERRORS: usize = 200;
/// Errors after which a file is not read on.
pub const FILE_ERRORS: usize = 1_000;
/// Problems that are told of how objects fit together.
pub const CHECK_PROBLEMS: usize = 10_000;
/// Characters of a message: what it quotes is shortened in the middle. A status with many of them must stay an object that
/// the apiserver takes.
pub const MESSAGE_CHARS: usize = 1_000;
/// Bytes of the paths whose places are remembered of one document. A problem of a field beyond is shown at what it lies in.
pub const PLACES_BYTES: usize = 32 << 20;
/// LabelGroups that contain each other, up to which every cycle is told by itself; of more, one is.
pub const CYCLE_GROUPS: usize = 100;
