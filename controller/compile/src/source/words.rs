//! Words for messages.

use ringfence_crds::pattern;

use super::limits::MESSAGE_CHARS;

/// Letters of the longest word that anything could be a misspelling of.
const LONGEST_WORD: usize = 64;

/// A message, shortened in its middle: what it quotes may be long, and both what stands before that and what to do about it
/// are to be read.
pub(super) fn short(message: String) -> String {
    // No text has more characters than bytes.
    if message.len() <= MESSAGE_CHARS {
        return message;
    }
    let half = MESSAGE_CHARS / 2 - 2;
    let (begin, end) = (message.floor_char_boundary(half), message.ceil_char_boundary(message.len() - half));
    format!("{} … {}", &message[..begin], &message[end..])
}

/// `did you mean 'x'?` for a near miss, else the list of what is possible.
pub(super) fn suggest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let mut known: Vec<&str> = known.into_iter().collect();
    known.sort_unstable();
    match nearest(wrong, known.iter().copied()) {
        Some(word) => format!("did you mean '{word}'?"),
        None if known.is_empty() => "nothing may stand here".to_owned(),
        None => format!("possible here: {}", known.join(", ")),
    }
}

/// The word that was meant, if one is near.
pub(super) fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if wrong.len() > LONGEST_WORD {
        return None;
    }
    let far = |word: &str| distance(&wrong.to_lowercase(), &word.to_lowercase());
    let words = known.into_iter().map(|word| (far(word), word));
    words.filter(|(distance, word)| *distance * 3 <= word.len().max(3)).min().map(|(_, word)| word)
}

/// How many letters one has to insert, delete or replace to get from one word to the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

/// What to write instead of a text that does not have a schema's form.
pub(super) fn form(pattern: &str) -> String {
    let help = match pattern {
        pattern::VALUE => {
            "a label value has 1 to 63 letters, digits, '-', '_' or '.', and begins and ends with a letter or digit"
        }
        pattern::DIMENSION => pattern::DIMENSION_KEYS_HELP,
        pattern::ADDRESS => "write an address such as 192.0.2.10 or 2001:db8::10",
        pattern::PREFIX => "write a prefix such as 192.0.2.0/24 or 2001:db8::/64",
        pattern::NAME => {
            "write a whole domain name such as db.example.com, or *.example.com for what is one label longer; letters of other \
             alphabets in their ASCII form (xn--…), and addresses under ranges"
        }
        pattern::RANGE => "write an address (192.0.2.1), a prefix (192.0.2.0/24) or a range (192.0.2.10-192.0.2.20)",
        r"^(TCP|UDP|SCTP|ICMP|ICMPv6|[0-9]{1,3})$" => {
            "write TCP, UDP, SCTP, ICMP, ICMPv6 or a protocol number in quotes (\"47\")"
        }
        r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?/[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$" => {
            "write the namespace and the name of the Service (shop/db)"
        }
        r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$" | r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$" => {
            "a name has 1 to 63 lower-case letters, digits or '-', and begins and ends with a letter or digit"
        }
        r"^[a-z0-9.-]+[/.]$" => "a prefix has lower-case letters, digits, '.' or '-', and ends with '/' or '.'",
        r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$" => "write a duration such as 30s, 1m or 1h30m",
        r"^(https|file)://.+$" => "write an address that begins with https:// or file://",
        r"^[0-9a-f]{40}$" => "write all 40 hexadecimal digits of the commit's id",
        other => return format!("it must match {other}"),
    };
    help.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_keeps_both_ends() {
        let long = short(format!("'{}' is no name: use letters", "ä".repeat(10_000)));
        assert!(long.len() <= MESSAGE_CHARS + 10, "{}", long.len());
        assert!(
            long.starts_with("'ää") && long.contains(" … ") && long.ends_with("ä' is no name: use letters"),
            "{long}"
        );
        assert_eq!(short("as it is".to_owned()), "as it is");
    }

    #[test]
    fn a_near_miss_is_recognized() {
        let known = ["consumers", "providers", "services"];
        assert_eq!(suggest("consumer", known), "did you mean 'consumers'?");
        assert_eq!(suggest("Providers", known), "did you mean 'providers'?");
        assert_eq!(suggest("colour", known), "possible here: consumers, providers, services");
    }
}
