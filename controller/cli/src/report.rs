//! Prints problems.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ringfence_compile::source::{Problem, Severity};
use serde::Serialize;

use crate::files::Folder;

/// Lines longer than this are shown around the place only.
const WIDTH: usize = 120;

/// Every problem with the line it is on and a caret below the place, and how many there are.
pub fn text(folder: &Folder) -> String {
    let mut out = problems(&folder.problems, &folder.texts);
    let (errors, warnings) = (folder.count(Severity::Error), folder.count(Severity::Warning));
    let _ = writeln!(out, "{errors} errors, {warnings} warnings in {} files", folder.texts.len());
    out
}

/// Every problem with the line it is on and a caret below the place.
pub fn problems(problems: &[Problem], texts: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    for problem in problems {
        let _ = writeln!(out, "{problem}");
        if let Some(line) = line_of(texts.get(&problem.path), problem.line) {
            out.push_str(&excerpt(line, problem));
        }
    }
    out
}

fn line_of(text: Option<&String>, number: u64) -> Option<&str> {
    let index = usize::try_from(number).ok()?.checked_sub(1)?;
    text?.lines().nth(index)
}

fn excerpt(line: &str, problem: &Problem) -> String {
    let column = usize::try_from(problem.column).unwrap_or(1).saturating_sub(1);
    let first = if line.chars().count() > WIDTH { column.saturating_sub(WIDTH / 2) } else { 0 };
    let shown: String = line.chars().skip(first).take(WIDTH).collect();
    // Tabs keep their width, so that the caret stands below the place.
    let before = shown.chars().take(column - first).map(|c| if c == '\t' { '\t' } else { ' ' });
    let gutter = format!("{:>5} | ", problem.line);
    let blank = format!("{:>5} | ", "");
    format!("{gutter}{shown}\n{blank}{}^\n", before.collect::<String>())
}

#[derive(Serialize)]
struct JsonReport<'a> {
    problems: Vec<JsonProblem<'a>>,
    errors: usize,
    warnings: usize,
    files: usize,
}

#[derive(Serialize)]
struct JsonProblem<'a> {
    file: &'a str,
    line: u64,
    column: u64,
    severity: String,
    message: &'a str,
}

/// The same for programs.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn json(folder: &Folder) -> serde_json::Result<String> {
    let problems = folder.problems.iter().map(|problem| JsonProblem {
        file: &problem.path,
        line: problem.line,
        column: problem.column,
        severity: problem.severity.to_string(),
        message: &problem.message,
    });
    serde_json::to_string_pretty(&JsonReport {
        problems: problems.collect(),
        errors: folder.count(Severity::Error),
        warnings: folder.count(Severity::Warning),
        files: folder.texts.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_stands_below_the_place() {
        let texts = BTreeMap::from([("a.yaml".to_owned(), "a: 1\nb: x y\n".to_owned())]);
        let problem = Problem {
            path: "a.yaml".to_owned(),
            line: 2,
            column: 6,
            message: "no y".to_owned(),
            severity: Severity::Error,
        };
        let expected = "a.yaml:2:6: error: no y\n    2 | b: x y\n      |      ^\n";
        assert_eq!(problems(&[problem], &texts), expected);
    }
}
