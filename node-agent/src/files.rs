//! Files that are replaced as a whole: whoever reads one finds the old or the new one, after a power cut too.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Replaces a file, or makes it, with these permissions and no moment of wider ones.
///
/// # Errors
/// When it cannot be: then what was there is there, and nothing beside it. Or when the folder cannot be made to outlast a power cut.
pub fn replace(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Another process may be at it at the same time. No container runtime reads a name that ends in `.new`.
    let aside = path.with_file_name(format!(".{name}.{}.new", std::process::id()));
    let written = write(&aside, mode, content).and_then(|()| fs::rename(&aside, path));
    if written.is_err() {
        // On a disk that is full it would take what the next try needs.
        let _ = fs::remove_file(&aside);
    }
    written?;
    path.parent().map_or(Ok(()), sync)
}

/// Waits until the disk has the names in a folder, where its file system knows such a thing.
fn sync(folder: &Path) -> io::Result<()> {
    match fs::File::open(folder)?.sync_all() {
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}

fn write(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    // The process's mask may have taken some of them away.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("it is there");
        entries.map(|entry| entry.expect("read").file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_file_is_replaced_with_its_permissions() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("note.json");
        for (mode, content) in [(0o600, "secret"), (0o666, "open")] {
            replace(&path, mode, content.as_bytes()).expect("written");
            assert_eq!(fs::read_to_string(&path).expect("read"), content);
            assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, mode);
            assert_eq!(names(folder.path()), ["note.json"]);
        }
    }

    /// As where the disk is full, or a path is not what it was taken for.
    #[test]
    fn what_cannot_be_replaced_stays_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("note.json");
        fs::create_dir_all(path.join("in the way")).expect("made");
        assert!(replace(&path, 0o600, b"new").is_err());
        assert!(path.join("in the way").exists());
        assert_eq!(names(folder.path()), ["note.json"]);
    }
}
