//! Against real repositories on disk, made by libgit2.

use std::path::{Path, PathBuf};
use std::time::Duration;

use git2::{Oid, Repository, Signature, TreeBuilder};
use tempfile::TempDir;

use super::{Commit, Credentials, GitError, Limits, Reference, Remote, fetch};

const FILE: i32 = 0o100_644;
const LINK: i32 = 0o120_000;
const FOLDER: i32 = 0o040_000;
const SUBMODULE: i32 = 0o160_000;

/// A bare repository and a cache for it.
struct Bench {
    dir: TempDir,
    repository: Repository,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let repository = Repository::init_bare(dir.path().join("policy.git")).expect("a bare repository");
        Self { dir, repository }
    }

    fn url(&self) -> String {
        format!("file://{}", self.dir.path().join("policy.git").display())
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn blob(&self, content: &[u8]) -> Oid {
        self.repository.blob(content).expect("a blob")
    }

    fn tree(&self, entries: &[(&str, Oid, i32)]) -> Oid {
        let mut builder: TreeBuilder<'_> = self.repository.treebuilder(None).expect("a builder");
        for (name, id, mode) in entries {
            builder.insert(name, *id, *mode).expect("an entry");
        }
        builder.write().expect("a tree")
    }

    /// Commits a tree on top of a branch.
    fn commit(&self, branch: &str, tree: Oid) -> Oid {
        let name = format!("refs/heads/{branch}");
        let who = Signature::new("a", "a@example.org", &git2::Time::new(0, 0)).expect("a signature");
        let tree = self.repository.find_tree(tree).expect("the tree");
        let parent = self.repository.find_reference(&name).ok().map(|tip| tip.peel_to_commit().expect("a commit"));
        let parents: Vec<_> = parent.iter().collect();
        self.repository.commit(Some(&name), &who, &who, "change", &tree, &parents).expect("a commit")
    }

    /// Commits one policy file at the root.
    fn commit_file(&self, branch: &str, text: &str) -> Oid {
        let blob = self.blob(text.as_bytes());
        self.commit(branch, self.tree(&[("a.yaml", blob, FILE)]))
    }

    /// Without the commit that an error is about.
    fn fetch(&self, reference: Reference, folder: &str, limits: &Limits) -> Result<Commit, GitError> {
        let remote = Remote { url: self.url(), reference, credentials: None, ca: None };
        fetch(&remote, folder, &self.cache(), limits).map_err(|error| match error {
            GitError::InCommit { error, .. } => *error,
            error => error,
        })
    }

    fn main(&self) -> Result<Commit, GitError> {
        self.fetch(branch("main"), "", &Limits::default())
    }
}

fn branch(name: &str) -> Reference {
    Reference::Branch(name.to_owned())
}

fn texts(commit: &Commit) -> Vec<(&str, &str)> {
    commit.files.iter().map(|file| (file.path.as_str(), file.text.as_str())).collect()
}

#[test]
fn a_branch_is_followed() {
    let bench = Bench::new();
    let first = bench.commit_file("main", "one");
    let got = bench.main().expect("the first commit");
    assert_eq!((got.id.clone(), texts(&got)), (first.to_string(), vec![("a.yaml", "one")]));
    let second = bench.commit_file("main", "two");
    let got = bench.main().expect("the second commit");
    assert_eq!((got.id.clone(), texts(&got)), (second.to_string(), vec![("a.yaml", "two")]));
    let again = bench.main().expect("the same commit");
    assert_eq!(again.id, got.id);
}

#[test]
fn a_branch_that_was_rewritten_is_followed() {
    let bench = Bench::new();
    bench.commit_file("main", "one");
    bench.main().expect("the first commit");
    bench.repository.find_reference("refs/heads/main").expect("main").delete().expect("deleted");
    let other = bench.commit_file("main", "other history");
    assert_eq!(bench.main().expect("the new history").id, other.to_string());
}

#[test]
fn tags_light_and_annotated_name_their_commit() {
    let bench = Bench::new();
    let id = bench.commit_file("main", "one");
    let object = bench.repository.find_object(id, None).expect("the commit");
    let who = Signature::new("a", "a@example.org", &git2::Time::new(0, 0)).expect("a signature");
    bench.repository.tag_lightweight("light", &object, false).expect("a tag");
    bench.repository.tag("annotated", &object, &who, "release", false).expect("a tag");
    bench.commit_file("main", "two");
    for tag in ["light", "annotated"] {
        let got = bench.fetch(Reference::Tag(tag.to_owned()), "", &Limits::default()).expect(tag);
        assert_eq!((got.id.clone(), texts(&got)), (id.to_string(), vec![("a.yaml", "one")]), "{tag}");
    }
}

#[test]
fn an_older_commit_is_found_by_its_id_and_then_needs_no_remote() {
    let bench = Bench::new();
    let id = bench.commit_file("main", "one");
    bench.commit_file("main", "two");
    let reference = Reference::Commit(id.to_string());
    let got = bench.fetch(reference.clone(), "", &Limits::default()).expect("the commit");
    assert_eq!((got.id.clone(), texts(&got)), (id.to_string(), vec![("a.yaml", "one")]));
    std::fs::remove_dir_all(bench.dir.path().join("policy.git")).expect("removed");
    assert_eq!(bench.fetch(reference, "", &Limits::default()).expect("from the cache").id, id.to_string());
}

#[test]
fn a_missing_branch_tag_or_commit_says_what_is_there() {
    let bench = Bench::new();
    let id = bench.commit_file("main", "one");
    bench.commit_file("dev", "one");
    let object = bench.repository.find_object(id, None).expect("the commit");
    bench.repository.tag_lightweight("v1", &object, false).expect("a tag");
    let text = |reference| bench.fetch(reference, "", &Limits::default()).expect_err("missing").to_string();
    assert_eq!(text(branch("prod")), "branch 'prod' is not in the repository; it has: dev, main");
    assert_eq!(text(Reference::Tag("v2".to_owned())), "tag 'v2' is not in the repository; it has: v1");
    let missing = "1234567890123456789012345678901234567890";
    let error = bench.fetch(Reference::Commit(missing.to_owned()), "", &Limits::default()).expect_err("missing");
    assert!(matches!(&error, GitError::CommitMissing(id) if id == missing), "{error}");
}

#[test]
fn an_empty_repository_and_none_at_all_are_told_apart() {
    let bench = Bench::new();
    assert!(matches!(bench.main(), Err(GitError::Empty)));
    std::fs::remove_dir_all(bench.dir.path().join("policy.git")).expect("removed");
    let error = bench.main().expect_err("gone");
    assert!(matches!(error, GitError::Gone { .. }), "{error}");
}

#[test]
fn only_policy_files_under_the_folder_are_read() {
    let bench = Bench::new();
    let blob = bench.blob(b"text");
    let inner = bench.tree(&[("b.yml", blob, FILE), ("c.yaml", blob, FILE), ("README.md", blob, FILE)]);
    let hidden = bench.tree(&[("workflow.yaml", blob, FILE)]);
    let eu = bench.tree(&[("a.yaml", blob, FILE), ("inner", inner, FOLDER), (".ci", hidden, FOLDER)]);
    let clusters = bench.tree(&[("eu", eu, FOLDER)]);
    bench.commit("main", bench.tree(&[("clusters", clusters, FOLDER), ("other.yaml", blob, FILE)]));
    let paths = |folder: &str| {
        let got = bench.fetch(branch("main"), folder, &Limits::default()).expect("the folder");
        got.files.into_iter().map(|file| file.path).collect::<Vec<_>>()
    };
    let eu = ["clusters/eu/a.yaml", "clusters/eu/inner/b.yml", "clusters/eu/inner/c.yaml"];
    assert_eq!(paths("clusters/eu"), eu);
    assert_eq!(paths("./clusters//eu/"), eu);
    assert_eq!(paths("").len(), 4);
    let error = |folder| bench.fetch(branch("main"), folder, &Limits::default()).expect_err("no folder");
    assert!(matches!(error("clusters/us"), GitError::PathMissing(_)));
    assert!(matches!(error("other.yaml"), GitError::PathNoFolder(_)));
    assert!(matches!(error("../outside"), GitError::PathMissing(_)));
}

/// The rest of the commit is read all the same, so that one look shows every problem of it.
#[test]
fn each_entry_that_cannot_be_read_is_a_problem() {
    let bench = Bench::new();
    let link = bench.tree(&[("link", bench.blob(b"/etc/passwd"), LINK)]);
    let sub = bench.commit_file("other", "x");
    let (not_text, big, list) = (bench.blob(&[0xff, 0xfe]), bench.blob(&[b'x'; 101]), bench.blob(b"- 1\n"));
    let files = [("a.yaml", not_text, FILE), ("b.yaml", big, FILE), ("c.yaml", list, FILE)];
    bench.commit("main", bench.tree(&[&files[..], &[("shop", link, FOLDER), ("sub", sub, SUBMODULE)]].concat()));
    let limits = Limits { file_bytes: 100, ..Limits::default() };
    let commit = bench.fetch(branch("main"), "", &limits).expect("the commit");
    assert_eq!(texts(&commit), [("c.yaml", "- 1\n")]);
    let problems: Vec<String> = commit.parse().problems.iter().map(ToString::to_string).collect();
    let advice = "and policy is read from plain files only: replace it by a copy or remove it";
    let expected = [
        "a.yaml:1:1: error: 'a.yaml' is not UTF-8 text: save it as UTF-8",
        "b.yaml:1:1: error: 'b.yaml' has 101 bytes and 100 are allowed: split it",
        "c.yaml:1:1: error: not a Ringfence object but a list: write apiVersion, kind, metadata and spec",
        &format!("shop/link:1:1: error: 'shop/link' is a symbolic link, {advice}"),
        &format!("sub:1:1: error: 'sub' is a submodule, {advice}"),
    ];
    assert_eq!(problems, expected);
}

#[test]
fn a_link_to_the_folder_of_policy_is_refused() {
    let bench = Bench::new();
    let folder = bench.tree(&[("a.yaml", bench.blob(b"x"), FILE)]);
    bench.commit("main", bench.tree(&[("real", folder, FOLDER), ("alias", bench.blob(b"real"), LINK)]));
    let error = bench.fetch(branch("main"), "alias", &Limits::default()).expect_err("a link to a folder");
    assert!(matches!(error, GitError::PathNoFolder(_)), "{error}");
}

#[test]
fn what_is_too_much_is_refused() {
    let bench = Bench::new();
    let ten = bench.blob(b"0123456789");
    bench.commit("main", bench.tree(&[("a.yaml", ten, FILE), ("b.yaml", ten, FILE), ("big.bin", ten, FILE)]));
    let with = |limits: Limits| bench.fetch(branch("main"), "", &limits);
    let fits = Limits { files: 2, file_bytes: 10, total_bytes: 20, ..Limits::default() };
    assert_eq!(with(fits).expect("just fits").files.len(), 2);
    assert!(matches!(with(Limits { files: 1, ..fits }), Err(GitError::TooManyFiles { limit: 1 })));
    assert!(matches!(with(Limits { total_bytes: 19, ..fits }), Err(GitError::TooBig { limit: 19 })));
    let problems = Limits { file_bytes: 9, ..fits };
    assert!(matches!(with(problems), Err(GitError::TooBig { limit: 20 })), "what is said about files counts as well");
}

/// Thirty levels, each twice in the level above: a thousand million files in thirty objects.
#[test]
fn a_tree_that_multiplies_itself_ends_early() {
    let bench = Bench::new();
    let mut tree = bench.tree(&[("a.txt", bench.blob(b"x"), FILE)]);
    for _ in 0..30 {
        tree = bench.tree(&[("l", tree, FOLDER), ("r", tree, FOLDER)]);
    }
    bench.commit("main", tree);
    let limits = Limits { files: 100, ..Limits::default() };
    let error = bench.fetch(branch("main"), "", &limits).expect_err("too many");
    assert!(matches!(error, GitError::TooManyFiles { .. }), "{error}");
}

#[test]
fn a_commit_that_cannot_be_read_is_named() {
    let bench = Bench::new();
    let id = bench.commit_file("main", "one");
    let remote = Remote { url: bench.url(), reference: branch("main"), credentials: None, ca: None };
    let error = fetch(&remote, "policy", &bench.cache(), &Limits::default()).expect_err("no such folder");
    assert_eq!((error.commit(), error.reason()), (Some(id.to_string().as_str()), "PathNotFound"));
    let short = &id.to_string()[..8];
    assert_eq!(error.to_string(), format!("commit {short}: there is no folder 'policy': check spec.path"));
}

#[test]
fn a_broken_cache_is_made_anew() {
    let bench = Bench::new();
    let id = bench.commit_file("main", "one");
    bench.main().expect("the commit");
    let objects = bench.cache().join("objects");
    std::fs::remove_dir_all(&objects).expect("removed");
    std::fs::write(&objects, b"no directory").expect("written");
    assert_eq!(bench.main().expect("again").id, id.to_string());
}

#[test]
fn a_server_that_is_not_there_is_unreachable() {
    let remote = Remote {
        url: "https://127.0.0.1:9/policy.git".to_owned(),
        reference: branch("main"),
        credentials: None,
        ca: None,
    };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let limits = Limits { time: Duration::from_secs(5), ..Limits::default() };
    let error = fetch(&remote, "", Path::new(dir.path()), &limits).expect_err("nobody listens");
    assert!(matches!(error, GitError::Unreachable { .. }), "{error}");
}

#[test]
fn a_password_is_never_printed() {
    let credentials = Credentials { username: "ringfence".to_owned(), password: "secret".to_owned() };
    assert!(!format!("{credentials:?}").contains("secret"));
}

mod certificates {
    use openssl::asn1::Asn1Time;
    use openssl::bn::BigNum;
    use openssl::hash::MessageDigest;
    use openssl::pkey::{PKey, Private};
    use openssl::rsa::Rsa;
    use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
    use openssl::x509::{X509, X509Builder, X509NameBuilder};

    use super::super::certificate::verify;

    struct Authority {
        certificate: X509,
        key: PKey<Private>,
    }

    fn key() -> PKey<Private> {
        PKey::from_rsa(Rsa::generate(2048).expect("a key")).expect("a key")
    }

    fn builder(name: &str, key: &PKey<Private>, issuer: Option<&Authority>, days: u32) -> X509Builder {
        let mut subject = X509NameBuilder::new().expect("a name");
        subject.append_entry_by_text("CN", name).expect("an entry");
        let subject = subject.build();
        let mut builder = X509Builder::new().expect("a builder");
        builder.set_version(2).expect("set");
        let serial = BigNum::from_u32(1).and_then(|n| n.to_asn1_integer()).expect("a number");
        builder.set_serial_number(&serial).expect("set");
        builder.set_subject_name(&subject).expect("set");
        builder.set_issuer_name(issuer.map_or(&*subject, |by| by.certificate.subject_name())).expect("set");
        builder.set_pubkey(key).expect("set");
        builder.set_not_before(&Asn1Time::from_unix(0).expect("a time")).expect("set");
        builder.set_not_after(&Asn1Time::days_from_now(days).expect("a time")).expect("set");
        builder
    }

    fn authority(name: &str, issuer: Option<&Authority>) -> Authority {
        let key = key();
        let mut builder = builder(name, &key, issuer, 1);
        builder.append_extension(BasicConstraints::new().critical().ca().build().expect("built")).expect("set");
        builder.sign(issuer.map_or(&key, |by| &by.key), MessageDigest::sha256()).expect("signed");
        Authority { certificate: builder.build(), key }
    }

    fn server(issuer: &Authority, days: u32) -> Vec<u8> {
        let key = key();
        let mut builder = builder("server", &key, Some(issuer), days);
        let mut names = SubjectAlternativeName::new();
        names.dns("git.example.org").ip("192.0.2.1");
        let names = names.build(&builder.x509v3_context(Some(&issuer.certificate), None)).expect("built");
        builder.append_extension(names).expect("set");
        builder.sign(&issuer.key, MessageDigest::sha256()).expect("signed");
        builder.build().to_der().expect("written")
    }

    fn pem(authority: &Authority) -> Vec<u8> {
        authority.certificate.to_pem().expect("written")
    }

    #[test]
    fn the_right_authority_and_name_are_needed() {
        let (ours, other) = (authority("ours", None), authority("other", None));
        let leaf = server(&ours, 1);
        assert_eq!(verify(&leaf, "git.example.org", &pem(&ours)), Ok(()));
        assert_eq!(verify(&leaf, "192.0.2.1", &pem(&ours)), Ok(()));
        let both = [pem(&other), pem(&ours)].concat();
        assert_eq!(verify(&leaf, "git.example.org", &both), Ok(()), "one of several");
        verify(&leaf, "git.example.org", &pem(&other)).expect_err("another authority");
        let error = verify(&leaf, "evil.example.org", &pem(&ours)).expect_err("another name");
        assert!(error.contains("spec.url"), "{error}");
        verify(&leaf, "192.0.2.2", &pem(&ours)).expect_err("another address");
        let error = verify(&leaf, "git.example.org", b"nothing").expect_err("no authority");
        assert!(error.contains("no PEM"), "{error}");
    }

    #[test]
    fn an_intermediate_authority_must_be_given() {
        let root = authority("root", None);
        let middle = authority("middle", Some(&root));
        let leaf = server(&middle, 1);
        let error = verify(&leaf, "git.example.org", &pem(&root)).expect_err("the middle is not known");
        assert!(error.contains("intermediate"), "{error}");
        assert_eq!(verify(&leaf, "git.example.org", &pem(&middle)), Ok(()));
        assert_eq!(verify(&leaf, "git.example.org", &[pem(&middle), pem(&root)].concat()), Ok(()));
    }

    #[test]
    fn an_expired_certificate_is_refused() {
        let ours = authority("ours", None);
        let error = verify(&server(&ours, 0), "git.example.org", &pem(&ours)).expect_err("expired");
        assert!(error.contains("renew"), "{error}");
    }

    #[test]
    fn a_certificate_that_signed_itself_is_trusted_when_given() {
        let key = key();
        let mut builder = builder("server", &key, None, 1);
        let names = SubjectAlternativeName::new().dns("git.example.org").build(&builder.x509v3_context(None, None));
        builder.append_extension(names.expect("built")).expect("set");
        builder.sign(&key, MessageDigest::sha256()).expect("signed");
        let own = builder.build();
        let der = own.to_der().expect("written");
        assert_eq!(verify(&der, "git.example.org", &own.to_pem().expect("written")), Ok(()));
    }
}
