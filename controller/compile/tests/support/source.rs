//! Texts of policy, and what is said about them.

use ringfence_compile::source::{LiveNames, Problem, SourceFile, check, parse};

pub fn files(list: &[(&str, &str)]) -> Vec<SourceFile> {
    list.iter().map(|(path, text)| SourceFile { path: (*path).to_owned(), text: (*text).to_owned() }).collect()
}

pub fn all_problems(list: &[(&str, &str)]) -> Vec<Problem> {
    let parsed = parse(&files(list));
    let mut problems = check(&parsed, &LiveNames::default());
    problems.extend(parsed.problems);
    problems.sort();
    problems
}

/// Exactly one problem, at the place, whose message holds the fragment.
#[track_caller]
pub fn assert_only(text: &str, place: &str, fragment: &str) {
    let problems = all_problems(&[("a.yaml", text)]);
    let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(shown.len(), 1, "{shown:#?}");
    assert!(shown[0].starts_with(&format!("a.yaml:{place}: ")), "{place}: {shown:#?}");
    assert!(shown[0].contains(fragment), "{fragment}: {shown:#?}");
}

/// An object whose spec begins on line 5; its name stands at 3:18.
pub fn object(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: ringfence.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{spec}")
}

/// A RuleSet whose only rule is the given block; the block begins on line 7, column 3.
pub fn rule(block: &str) -> String {
    object("RuleSet", "r", &format!("  scopes: [{{}}]\n  rules:\n{block}"))
}

/// `a.yaml:7:5 error` of each problem.
pub fn places(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(|p| format!("{}:{}:{} {}", p.path, p.line, p.column, p.severity)).collect()
}
