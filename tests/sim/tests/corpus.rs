//! What fuzzing has kept, replayed: each file took a way through the code that no other took, or once failed.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::PathBuf;

fn replay(target: &str, run: fn(&[u8])) {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../fuzz/corpus", target].iter().collect();
    let mut files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "{} holds {} files only", folder.display(), files.len());
    for file in files {
        println!("{}", file.display());
        run(&fs::read(&file).unwrap());
    }
}

#[test]
fn policy() {
    replay("policy", ringfence_sim::fuzz::policy);
}

#[test]
fn compiler() {
    replay("compiler", ringfence_sim::fuzz::compiler);
}
