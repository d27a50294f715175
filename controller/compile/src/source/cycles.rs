//! LabelGroups that contain each other.

use std::collections::{BTreeMap, VecDeque};

use super::index::Index;
use super::limits::CYCLE_GROUPS;

/// The cycles, each as the names from a group back to itself, once, from the name that comes first; of many groups that all
/// contain each other, one cycle.
pub(super) fn cycles<'a>(index: &Index<'a>) -> Vec<Vec<&'a str>> {
    let mut cycles = Vec::new();
    for knot in knots(index) {
        // The first name's own cycle is always one that it comes first in.
        let most = if knot.len() <= CYCLE_GROUPS { knot.len() } else { 1 };
        let ways = knot.iter().filter_map(|start| shortest(index, start, &knot));
        cycles.extend(ways.filter(|cycle| cycle.iter().all(|name| *name >= cycle[0])).take(most));
    }
    cycles
}

/// The groups within one that are there.
fn inner<'a>(index: &Index<'a>, name: &str) -> Vec<&'a str> {
    let names = index.label_group(name).into_iter().flat_map(|group| group.spec.groups.iter());
    names.filter_map(|name| index.label_group(name).map(|_| name.as_str())).collect()
}

/// A group on the way down, and which of those in it come next.
struct Visit<'a> {
    name: &'a str,
    inner: Vec<&'a str>,
    next: usize,
}

/// Sets of groups in which each contains each other, sorted: the strongly connected components (Tarjan), without those of a
/// single group that does not contain itself. Without recursion: a chain may be as long as policy is.
fn knots<'a>(index: &Index<'a>) -> Vec<Vec<&'a str>> {
    let mut knots = Vec::new();
    // Of each group that was seen, its number and the lowest number that it leads back to; none once it is settled.
    let mut seen: BTreeMap<&str, Option<(usize, usize)>> = BTreeMap::new();
    let mut open: Vec<&str> = Vec::new();
    for (root, _) in index.label_groups() {
        let mut way: Vec<Visit<'a>> = Vec::new();
        let mut down = (!seen.contains_key(root)).then_some(root);
        loop {
            if let Some(name) = down.take() {
                let number = seen.len();
                seen.insert(name, Some((number, number)));
                open.push(name);
                way.push(Visit { name, inner: inner(index, name), next: 0 });
            }
            let Some(visit) = way.last_mut() else { break };
            if let Some(inner) = visit.inner.get(visit.next).copied() {
                visit.next += 1;
                match seen.get(inner).copied() {
                    None => down = Some(inner),
                    Some(Some((number, _))) => lower(&mut seen, visit.name, number),
                    Some(None) => {}
                }
                continue;
            }
            let name = visit.name;
            let contains_itself = visit.inner.contains(&name);
            way.pop();
            let Some(Some((number, lowest))) = seen.get(name).copied() else { continue };
            if let Some(outer) = way.last() {
                lower(&mut seen, outer.name, lowest);
            }
            if number == lowest {
                let from = open.iter().rposition(|other| *other == name).unwrap_or(0);
                let mut knot = open.split_off(from);
                knot.iter().for_each(|name| _ = seen.insert(name, None));
                knot.sort_unstable();
                if knot.len() > 1 || contains_itself {
                    knots.push(knot);
                }
            }
        }
    }
    knots
}

fn lower<'a>(seen: &mut BTreeMap<&'a str, Option<(usize, usize)>>, name: &'a str, to: usize) {
    if let Some(Some((_, lowest))) = seen.get_mut(name) {
        *lowest = (*lowest).min(to);
    }
}

/// The shortest way within a knot from a group back to itself, its name at both ends.
fn shortest<'a>(index: &Index<'a>, start: &'a str, knot: &[&'a str]) -> Option<Vec<&'a str>> {
    let mut from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(name) = queue.pop_front() {
        for inner in inner(index, name) {
            if inner == start {
                let mut way = vec![start];
                let mut at = name;
                while at != start {
                    way.push(at);
                    at = from.get(at)?;
                }
                way.push(start);
                way.reverse();
                return Some(way);
            }
            if !from.contains_key(inner) && knot.binary_search(&inner).is_ok() {
                from.insert(inner, name);
                queue.push_back(inner);
            }
        }
    }
    None
}
