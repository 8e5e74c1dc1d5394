//! Config texts: what every case needs is filled in, and `@name` stands for what the case knows at run time.

use std::fmt::Display;

/// What a case fills in: `@name` becomes the value.
pub type Values<'a> = &'a [(&'a str, &'a dyn Display)];

/// One listener in the clear, called `web`.
const LISTENERS: &str = "listeners: [{ name: web, address: \"127.0.0.1:0\" }]\n";

/// Fills in the values, and the top-level keys that a case does not write.
pub fn fill(text: &str, values: Values<'_>) -> String {
    let mut config = text.to_owned();
    let has = |key: &str| text.lines().any(|line| line.starts_with(key));
    if !has("listeners:") {
        config.insert_str(0, LISTENERS);
    }
    if !has("workers:") {
        config.insert_str(0, "workers: 1\n");
    }
    if !has("access_log:") {
        config.insert_str(0, "access_log: { path: access.log }\n");
    }
    // The longer name first, so that `@a` does not spoil `@app`.
    let mut values = values.to_vec();
    values.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    for (name, value) in values {
        config = config.replace(&format!("@{name}"), &value.to_string());
    }
    config
}

/// Every request goes to one pool with these endpoints; `more` is added at the top level.
pub fn before(endpoints: &[&dyn Display], more: &str) -> String {
    let endpoints: Vec<_> = endpoints.iter().map(|end| format!("\"{end}\"")).collect();
    let endpoints = endpoints.join(", ");
    format!("routes: [{{ pool: app }}]\npools: {{ app: {{ endpoints: [{endpoints}] }} }}\n{more}\n")
}
