#!/usr/bin/env bash
# Takes the guards of a switchover away one at a time (mutants), and expects a test to fail for each: those of the gate, of the proof and of
# what a step comes upon by the worlds of decide, those right before an act on real servers.
set -euo pipefail
command -v cargo-mutants >/dev/null || cargo install --quiet --locked cargo-mutants
output=${MITOSIS_MUTANTS:-target/guards}
mutants() { cargo mutants --package pg-mitosis --no-shuffle --colors never --timeout 300 "$@"; }
mutants --output "$output/decide" --file src/decide/switchover/gate.rs --file src/decide/switchover/observation.rs \
  --re 'in find_|find_.* ->|::(proof|at_proof|at_promotion|at_route|at_restore|at_old_primary|is_armed|other_primary)' -- --lib decide::
# Left out: what means the same (to the nanosecond as old as allowed), and the login, which is no guard.
mutants --output "$output/act" --file src/act/mod.rs --file src/act/postgres.rs \
  --exclude-re 'replace > with >= in Actor|delete field' \
  --re "Actor<'_>::(stop|restart|promote|reinstate|disarm|arm|ensure_lease|act_once)( |$)" -- --test postgres acting
