//! Tables for people.

use comfy_table::{ContentArrangement, Table, presets};

/// A table without lines, as kubectl prints them; nothing at all when it has no rows.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|name| name.to_uppercase()));
    for row in rows {
        table.add_row(row.into_iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { cell }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    let lines: Vec<String> = table.to_string().lines().map(|line| line.trim_end().to_owned()).collect();
    format!("{}\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_line_up_and_nothing_is_shown_as_such() {
        let rows = vec![vec!["shop".to_owned(), String::new()], vec!["a".to_owned(), "b".to_owned()]];
        assert_eq!(super::table(&["name", "node"], rows), "NAME   NODE\nshop   -\na      b\n");
        assert_eq!(super::table(&["name"], Vec::new()), "");
    }
}
