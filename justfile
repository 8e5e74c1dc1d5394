# One recipe a step of .ci/run, and nothing else: the script is the truth.

# All steps, cheapest first.
all:
    .ci/run

# Format: rustfmt has nothing to change.
fmt:
    .ci/run fmt

# Lint: clippy has nothing to say.
lint:
    .ci/run lint

# Walls: who imports whom, what is documented.
house:
    .ci/run house

# Tests that need only Rust and a C compiler.
test:
    .ci/run test

# Documentation builds without a warning.
doc:
    .ci/run doc

# Dependencies: bans, licences, sources.
deny:
    .ci/run deny

# A bill of materials in target/sbom.json.
sbom:
    .ci/run sbom

# Instructions, allocations and system calls an exchange, held against benches/budget.toml.
bench-counts:
    .ci/run bench-counts

# Tests beside real servers and clients; installs them.
peers:
    .ci/run peers

# Every scenario of benches/peers once, to see that it works; installs what it needs.
compare:
    .ci/run compare
