//! The known word that a mistyped one most likely meant.

/// Words are compared up to this length; a longer one is no key of ours anyway.
const COMPARED_CHARS: usize = 64;

/// A known word and how far it is from what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Nearest<'k> {
    pub(crate) word: &'k str,
    /// Close enough to be what was meant, rather than just the nearest there is.
    pub(crate) likely: bool,
}

/// The nearest of the known words, the first of equally near ones; none only if there are no known words.
///
/// Case, dashes and underscores do not count, so that `peerAddress` is `peer-address`.
pub(crate) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<Nearest<'k>> {
    let written = folded(word);
    let (distance, word) = known
        .into_iter()
        .map(|word| (distance(&written, &folded(word)), word))
        .min_by_key(|(distance, _)| *distance)?;
    Some(Nearest { word, likely: distance <= 1 + written.len() / 5 })
}

fn folded(word: &str) -> Vec<char> {
    let letters = word.chars().filter(|c| !matches!(c, '-' | '_')).flat_map(char::to_lowercase);
    letters.take(COMPARED_CHARS).collect()
}

/// Insertions, deletions, substitutions and swaps of neighbours (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, &from) in a.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, &to) in b.iter().enumerate() {
            let mut best = (row[j] + usize::from(from != to)).min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && from == b[j - 1] && a[i - 1] == to {
                best = best.min(before[j - 1] + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_single_mistakes() {
        let of = |a: &str, b: &str| distance(&folded(a), &folded(b));
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("peer-adress", "peer-address", 1),
            ("peerAddress", "peer-address", 0),
            ("cdir", "cidr", 1),
            ("cidrs", "cidr", 1),
            ("localpref", "local_perf", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(of(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn a_near_word_is_likely_and_a_far_one_is_only_the_nearest() {
        let known = ["name", "cidr", "advertisements"];
        assert_eq!(nearest("advertisment", known), Some(Nearest { word: "advertisements", likely: true }));
        assert_eq!(nearest("nme", known), Some(Nearest { word: "name", likely: true }));
        assert!(nearest("description", known).is_some_and(|nearest| !nearest.likely));
        assert_eq!(nearest("x", []), None);
    }
}
