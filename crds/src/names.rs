//! Names that controller, agent and command line share.

/// API group of every kind.
pub const GROUP: &str = "ringfence.dev";
/// Version of every kind.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of every kind.
pub const API_VERSION: &str = "ringfence.dev/v1alpha1";

/// The ContainerCluster that the controller makes when there is none.
pub const CLUSTER: &str = "this";
/// The WorkloadPolicy that closes a publication: its revision is the newest that all agents are to have in force.
pub const MARKER: &str = "marker";

/// Field manager of what comes from git.
pub const MANAGER_GIT: &str = "ringfence-git";
/// Field manager of what discovery makes.
pub const MANAGER_KUBELINK: &str = "ringfence-kubelink";
/// Field manager of computed objects and of every status the controller writes.
pub const MANAGER_CONTROLLER: &str = "ringfence-controller";
/// Field manager of the agent.
pub const MANAGER_AGENT: &str = "ringfence-cven";

/// Annotation prefix of labels, always accepted.
pub const ANNOTATION_PREFIX: &str = "ringfence.dev/";
/// Label on objects from git: `<namespace>.<name>` of their PolicyRepository.
pub const LABEL_REPOSITORY: &str = "policy.ringfence.dev/repository";
/// Annotation on objects from git: the commit that last changed them.
pub const ANNOTATION_COMMIT: &str = "policy.ringfence.dev/commit";
/// Annotation on objects from git: the file they are in, relative to the repository's root.
pub const ANNOTATION_FILE: &str = "policy.ringfence.dev/file";
/// Annotation on objects from git: the line their document begins on.
pub const ANNOTATION_LINE: &str = "policy.ringfence.dev/line";
/// Label on what discovery made and nobody has adopted.
pub const LABEL_CREATED_BY: &str = "policy.ringfence.dev/created-by";
/// Value of [`LABEL_CREATED_BY`].
pub const CREATED_BY_KUBELINK: &str = "kubelink";
/// Label on computed objects: hash bucket, 0 to 255, so that an agent can watch only what concerns it.
pub const LABEL_BUCKET: &str = "policy.ringfence.dev/bucket";

/// The value of [`LABEL_BUCKET`]: of an AddressGroup by its class, of a PeerGroup by its name.
pub fn bucket(id: &str) -> String {
    // FNV-1a: stable across versions of everything, and even enough over 256 buckets.
    let hash = id.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash % 256).to_string()
}
