//! Names that controller, agent and command line share.

use sha2::{Digest, Sha256};

/// API group of every kind.
pub const GROUP: &str = "ringfence.dev";
/// Version of every kind.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of every kind.
pub const API_VERSION: &str = "ringfence.dev/v1alpha1";

/// The ContainerCluster that the controller makes when there is none.
pub const CLUSTER: &str = "this";
/// The WorkloadPolicy that closes a publication: its revision is the newest that all agents are to have in force. The
/// PeerGroup of that name is written after all others of a publication, selects nothing, and lies in the bucket
/// [`BUCKET_MARKER`].
pub const MARKER: &str = "marker";

/// Field manager of what comes from git.
pub const MANAGER_GIT: &str = "ringfence-git";
/// Field manager of what discovery makes.
pub const MANAGER_KUBELINK: &str = "ringfence-kubelink";
/// Field manager of computed objects and of every status the controller writes.
pub const MANAGER_CONTROLLER: &str = "ringfence-controller";
/// Field manager of what is suspended before the chart is uninstalled.
pub const MANAGER_UNINSTALL: &str = "ringfence-uninstall";
/// Field manager of the agent.
pub const MANAGER_AGENT: &str = "ringfence-cven";

/// Reason of a NodePolicy's `Ready` once its agent has taken everything away because enforcement is suspended.
pub const REASON_SUSPENDED: &str = "Suspended";

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
/// Label on PeerGroups and AddressGroups: their hash bucket, see [`bucket`].
pub const LABEL_BUCKET: &str = "policy.ringfence.dev/bucket";
/// The bucket of the PeerGroup [`MARKER`], beside those with numbers: every agent watches it.
pub const BUCKET_MARKER: &str = "marker";
/// The bucket of the AddressGroups that every agent watches: exposed Pods, and [`CLASS_GATES`].
pub const BUCKET_EXPOSED: &str = "exposed";
/// Class of the AddressGroups with the addresses of nodes whose gate seals. They are there as long as a Pod is exposed.
pub const CLASS_GATES: &str = "gates";
/// How many buckets there are. An agent gets whole buckets: with more of them it gets less that does not concern it, but
/// a new class less often lies in a bucket that it watches anyway, and all of them must fit into the address of a request.
pub const BUCKETS: u16 = 1024;

/// The bucket, 0 to [`BUCKETS`] - 1, that [`LABEL_BUCKET`] names: of an AddressGroup by its class, of a PeerGroup by its
/// name. An agent watches only the buckets of what its Pods' rules refer to.
pub fn bucket(id: &str) -> u16 {
    // FNV-1a, stable across versions of everything. Its low bits alone tell similar ids apart badly: they are folded.
    let hash = id.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let folded = (hash ^ (hash >> 16)) % u32::from(BUCKETS);
    u16::try_from(folded).unwrap_or_default()
}

/// Hexadecimal digits of the ids of classes, Services and PeerGroups: 80 bits. Whoever may name a Service must not find a name
/// whose id is that of somebody else's, and 48 bits are searched in hours.
pub const ID_DIGITS: usize = 20;

/// Class of the AddressGroup with the ends of a Service, `namespace/name`.
pub fn service_class(service: &str) -> String {
    format!("s-{}", short_hash(service, ID_DIGITS))
}

/// Class of the AddressGroup with the Pods that a Service exposes, `namespace/name`.
pub fn exposed_class(service: &str) -> String {
    format!("x-{}", short_hash(service, ID_DIGITS))
}

/// The first `digits` hexadecimal digits of the SHA-256 of a text.
pub fn short_hash(text: &str, digits: usize) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digest = Sha256::digest(text.as_bytes());
    let nibbles = digest.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    nibbles.take(digits).map(|nibble| char::from(DIGITS[usize::from(nibble)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed by another implementation of FNV-1a and SHA-256: what is in a cluster already must mean the same to the
    /// next version.
    #[test]
    fn buckets_and_classes_never_change() {
        let buckets = ["", "c-1", "p-0123456789ab"].map(bucket);
        assert_eq!(buckets, [217, 356, 711]);
        assert_eq!(service_class("shop/db"), "s-ad9c1afeaa0fadad5e46");
    }

    #[test]
    fn buckets_are_filled_evenly() {
        let mut filled = vec![0; usize::from(BUCKETS)];
        for number in 0..100 * usize::from(BUCKETS) {
            filled[usize::from(bucket(&format!("c-{}", short_hash(&number.to_string(), ID_DIGITS))))] += 1;
        }
        assert!(filled.iter().all(|count| (50..=150).contains(count)), "{filled:?}");
    }
}
