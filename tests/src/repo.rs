//! A policy repository: commits by the real `git` into a bare repository that the test cluster's git server serves.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A work tree whose commits are pushed to a bare repository.
pub struct Repo {
    tree: PathBuf,
}

fn git(tree: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("git")
        .args(["-c", "user.name=Demo", "-c", "user.email=demo@ringfence.test", "-c", "init.defaultBranch=main"])
        .arg("-C")
        .arg(tree)
        .args(arguments)
        .output()
        .context("failed to run git")?;
    if !output.status.success() {
        bail!("git {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Repo {
    /// Makes a new bare repository at `bare` (whatever was there is gone), and a work tree at `tree` holding a copy of
    /// `template`, not yet committed.
    ///
    /// # Errors
    /// When git or the file system refuses.
    pub fn create(bare: &Path, tree: &Path, template: &Path) -> Result<Self> {
        for folder in [bare, tree] {
            if folder.exists() {
                std::fs::remove_dir_all(folder).with_context(|| format!("failed to remove {}", folder.display()))?;
            }
            std::fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
        }
        git(bare, &["init", "--quiet", "--bare"])?;
        copy(template, tree)?;
        git(tree, &["init", "--quiet"])?;
        git(tree, &["remote", "add", "origin", &bare.display().to_string()])?;
        Ok(Self { tree: tree.to_owned() })
    }

    /// The work tree.
    pub fn tree(&self) -> &Path {
        &self.tree
    }

    /// Writes a file of the work tree.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let file = self.tree.join(path);
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&file, text).with_context(|| format!("failed to write {}", file.display()))
    }

    /// Reads a file of the work tree.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, path: &str) -> Result<String> {
        let file = self.tree.join(path);
        std::fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))
    }

    /// Removes a file of the work tree, if it is there.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, path: &str) -> Result<()> {
        match std::fs::remove_file(self.tree.join(path)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Commits everything and pushes it; the commit's id.
    ///
    /// # Errors
    /// When git refuses.
    pub fn commit(&self, message: &str) -> Result<String> {
        git(&self.tree, &["add", "--all"])?;
        git(&self.tree, &["commit", "--quiet", "--allow-empty", "-m", message])?;
        git(&self.tree, &["push", "--quiet", "--force", "origin", "HEAD:refs/heads/main"])?;
        git(&self.tree, &["rev-parse", "HEAD"])
    }

    /// Gives the newest commit a tag, and pushes that.
    ///
    /// # Errors
    /// When git refuses.
    pub fn tag(&self, name: &str) -> Result<()> {
        git(&self.tree, &["tag", "--annotate", "-m", name, name])?;
        git(&self.tree, &["push", "--quiet", "origin", &format!("refs/tags/{name}")]).map(drop)
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in std::fs::read_dir(from).with_context(|| format!("failed to read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            std::fs::create_dir_all(&target)?;
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
