//! The connection matrix: who reaches whom on which port, expected and seen.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::probe::{self, Seen, Try};

/// Where each row's client is and where each column's listener is.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// From row to the network namespace of its client.
    pub clients: BTreeMap<String, PathBuf>,
    /// From column to the address of its listener.
    pub listeners: BTreeMap<String, SocketAddr>,
}

/// One cell.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cell {
    row: String,
    column: String,
    expected: Seen,
}

/// What is expected of every pair; pairs marked `-` are not tried.
#[derive(Debug, Clone)]
pub struct Matrix {
    columns: Vec<String>,
    rows: Vec<String>,
    cells: Vec<Cell>,
}

/// What came of trying a matrix.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Cells tried.
    pub checked: usize,
    /// Cells that were not as expected.
    pub wrong: usize,
}

impl Matrix {
    /// Reads a matrix as it is written in the story: a line of column names, then a line for each client with `o`
    /// (open), `x` (dropped), `r` (refused) or `-` (not tried) under each.
    ///
    /// # Errors
    /// When a line has not as many marks as there are columns.
    pub fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let columns: Vec<String> =
            lines.next().context("a matrix begins with its columns")?.split_whitespace().map(str::to_owned).collect();
        let mut matrix = Self { columns, rows: Vec::new(), cells: Vec::new() };
        for line in lines {
            matrix.parse_row(line)?;
        }
        Ok(matrix)
    }

    fn parse_row(&mut self, line: &str) -> Result<()> {
        let mut words = line.split_whitespace();
        let row = words.next().context("a row begins with its client")?.to_owned();
        let marks: Vec<&str> = words.collect();
        if marks.len() != self.columns.len() {
            bail!("row {row} has {} marks for {} columns", marks.len(), self.columns.len());
        }
        for (column, mark) in self.columns.iter().zip(marks) {
            let expected = match mark {
                "o" => Seen::Open,
                "x" => Seen::Dropped,
                "r" => Seen::Refused,
                "-" => continue,
                other => bail!("'{other}' in row {row} is none of o, x, r and -"),
            };
            self.cells.push(Cell { row: row.clone(), column: column.clone(), expected });
        }
        self.rows.push(row);
        Ok(())
    }

    /// The same matrix with every tried cell expected to be open.
    #[must_use]
    pub fn all_open(&self) -> Self {
        let mut open = self.clone();
        for cell in &mut open.cells {
            cell.expected = Seen::Open;
        }
        open
    }

    /// The same matrix with some cells expected otherwise.
    ///
    /// # Errors
    /// When such a cell is not tried.
    pub fn with(&self, changes: &[(&str, &str, Seen)]) -> Result<Self> {
        let mut changed = self.clone();
        for (row, column, seen) in changes {
            let cell = changed
                .cells
                .iter_mut()
                .find(|cell| cell.row == *row && cell.column == *column)
                .with_context(|| format!("{row} to {column} is not tried"))?;
            cell.expected = *seen;
        }
        Ok(changed)
    }

    /// Tries every cell at the same time and prints what was seen.
    ///
    /// # Errors
    /// When an attempt could not be made at all.
    pub fn check(&self, places: &Places) -> Result<Tally> {
        let tries = self
            .cells
            .iter()
            .map(|cell| {
                let netns = places.clients.get(&cell.row).with_context(|| format!("no client {}", cell.row))?;
                let target = places.listeners.get(&cell.column);
                let target = *target.with_context(|| format!("no listener {}", cell.column))?;
                Ok(Try { netns: netns.clone(), target, udp: false })
            })
            .collect::<Result<Vec<_>>>()?;
        let mut seen = BTreeMap::new();
        for (cell, outcome) in self.cells.iter().zip(probe::all(&tries)) {
            let outcome = outcome.with_context(|| format!("failed to try {} to {}", cell.row, cell.column))?;
            seen.insert((cell.row.as_str(), cell.column.as_str()), (cell.expected, outcome));
        }
        Ok(self.print(&seen, places))
    }

    /// One line a client; in every cell what was expected and what was seen.
    fn print(&self, seen: &BTreeMap<(&str, &str), (Seen, Seen)>, places: &Places) -> Tally {
        let mut tally = Tally::default();
        let port = |column: &str| places.listeners.get(column).map_or(String::new(), |at| format!(":{}", at.port()));
        println!("    expected/seen: o open, x dropped, r refused, t timed out");
        println!("    {:<12}{}", "", self.line(|column| column.to_owned()));
        println!("    {:<12}{}", "", self.line(port));
        let mut wrong = Vec::new();
        for row in &self.rows {
            let cells = self.line(|column| {
                let Some((expected, outcome)) = seen.get(&(row.as_str(), column)) else { return String::new() };
                tally.checked += 1;
                if expected != outcome {
                    tally.wrong += 1;
                    wrong.push(format!("{row} to {column}: expected {expected}, seen {outcome}"));
                }
                format!("{}/{}", mark(*expected), mark(*outcome))
            });
            println!("    {row:<12}{cells}");
        }
        for line in wrong {
            println!("    WRONG {line}");
        }
        tally
    }

    /// One text for each column, each as wide as the column.
    fn line(&self, mut text: impl FnMut(&str) -> String) -> String {
        let cells = self.columns.iter().map(|column| format!(" {:<width$}", text(column), width = column.len().max(8)));
        cells.collect::<String>().trim_end().to_owned()
    }
}

fn mark(seen: Seen) -> char {
    match seen {
        Seen::Open => 'o',
        Seen::Refused => 'r',
        Seen::Dropped => 'x',
        Seen::TimedOut => 't',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_reads_as_it_is_written() {
        let matrix = Matrix::parse("a b\n client o -\n other x r\n").expect("well-formed");
        assert_eq!(matrix.cells.len(), 3);
        assert_eq!(matrix.cells[1].expected, Seen::Dropped);
        assert!(matrix.all_open().cells.iter().all(|cell| cell.expected == Seen::Open));
        assert!(matrix.with(&[("client", "b", Seen::Open)]).is_err(), "not tried");
        assert!(Matrix::parse("a b\n client o\n").is_err());
    }
}
