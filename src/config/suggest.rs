//! "Did you mean": the remedy for a wrong name.

/// `` `a`, `b` and 3 more ``.
pub(crate) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 20;
    let names: Vec<_> = names.collect();
    let mut text = names
        .iter()
        .take(SHOWN)
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

/// What was meant, if one of the names is close; else all of them.
pub(crate) fn suggestion<'a>(
    wrong: &str,
    all: &str,
    names: impl Iterator<Item = &'a str> + Clone,
) -> String {
    match nearest(wrong, names.clone()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("{all} {}", listed(names)),
    }
}

/// The name that is close to a wrong one, if there is one.
pub(crate) fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Far more names than that are not read by anybody, and are not worth the time.
    const COMPARED: usize = 1000;
    let (distance, name) = names
        .take(COMPARED)
        .map(|name| (distance(wrong, name), name))
        .min_by_key(|(distance, _)| *distance)?;
    (distance <= (name.len() / 3).max(1)).then_some(name)
}

/// How many letters must be changed, put in, taken out or swapped with their neighbour; capped for long words.
fn distance(a: &str, b: &str) -> usize {
    const LONGEST: usize = 64;
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len() > LONGEST || b.len() > LONGEST || a.len().abs_diff(b.len()) > LONGEST / 3 {
        return usize::MAX;
    }
    // Rows of the table of distances between prefixes: the one before the last, the last, this one.
    let mut older: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, &x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &y) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(x != y))
                .min(last[j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && x == b[j - 1] && a[i - 1] == y {
                best = best.min(older[j - 1] + 1);
            }
            row.push(best);
        }
        older = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_is_found() {
        let names = ["health_check", "endpoints", "balance"];
        let check = |wrong| suggestion(wrong, "keys are", names.into_iter());
        assert_eq!(check("heath_check"), "did you mean `health_check`?");
        assert_eq!(check("enpdoints"), "did you mean `endpoints`?");
        assert_eq!(
            check("weight"),
            "keys are `health_check`, `endpoints`, `balance`"
        );
        assert_eq!(check(""), "keys are `health_check`, `endpoints`, `balance`");
    }
}
