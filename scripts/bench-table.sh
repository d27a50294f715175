#!/usr/bin/env bash
# The tables of docs/speed.md, made from what `make bench` printed.
#   bench-table.sh FILE          put the lines of FILE, and the tables that follow from them, into docs/speed.md
#   bench-table.sh --check       fail if the tables there do not follow from the lines there
source "$(dirname "$0")/lib.sh"
readonly PAGE=docs/speed.md

# name|what is taken of its lines|peer|aim, in the same unit
readonly SHAPES='small-namespaces|seconds|Antrea 8.6 s, 2.0 GB|0.35
large-namespaces|seconds|Antrea 4.3 s, 2.4 GB|0.2
one-namespace|seconds|Antrea 4.2 s, 1.9 GB|0.1
policy-per-pod|seconds|Antrea 62 s, 1.8 GB|0.2
cluster-scoped|seconds|Antrea 1.3 s|0.15
isolated-customers|seconds|Felix 14.7 s, 315 MB|0.3
node-snapshot|seconds|Felix 10.4 s, 283 MB|0.1
node-snapshot-apps|seconds|–|0.1
pod-event|p99_us|Antrea 2 ms|50
policy-edit|p99_us|–|5000'

# name|what is taken of its line|its unit|most or least|aim|what of the line is the floor
readonly AGENT='node-cold|seconds|s|most|1|programs_s
node-delta|p50_ms|ms|most|20
node-delta|p99_ms|ms|most|100
node-restart|ready_ms|ms|most|300
node-restart|kernel_writes||most|0
node-idle|mcpu|mCPU|most|3
node-idle|rss_mb|MB|most|30
pod-start-no-rule|p99_ms|ms|most|10|programs_p99_ms
pod-start|p50_ms|ms|||programs_p50_ms
pod-start|p99_ms|ms|most|10|programs_p99_ms
first-packet|times||least|50|needed_times
throughput|stream_ratio||least|0.97|conntrack_stream_ratio
throughput|cps_ratio||least|0.90|conntrack_cps_ratio
big-group|seconds|s||
big-group|kernel_mb|MB||'

# Of several lines of one name the last counts.
agent_table() {
  awk -v wanted="$AGENT" '
    $1 == "bench" { for (i = 3; i <= NF; i++) { at = index($i, "="); value[$2, substr($i, 1, at - 1)] = substr($i, at + 1) } }
    END {
      print "| line | what | here | floor | aim | reached |"
      print "| --- | --- | --- | --- | --- | --- |"
      count = split(wanted, rows, "\n")
      for (i = 1; i <= count; i++) {
        split(rows[i], row, "|")
        if (!((row[1], row[2]) in value)) continue
        here = value[row[1], row[2]] + 0; unit = row[3] == "" ? "" : " " row[3]; aim = row[5] + 0
        good = row[4] == "most" ? here <= aim : here >= aim
        if (row[4] == "") { limit = "–"; reached = "–" }
        else {
          limit = (row[4] == "most" ? "at most " : "at least ") row[5] unit
          if (good) reached = "yes"
          else if (row[4] == "most" && aim > 0) reached = sprintf("no, %.1f times", here / aim)
          else reached = sprintf("no, by %.4g", row[4] == "most" ? here - aim : aim - here)
        }
        least = row[6] != "" && (row[1], row[6]) in value ? value[row[1], row[6]] unit : "–"
        printf "| `%s` | `%s` | %s%s | %s | %s | %s |\n", row[1], row[2], value[row[1], row[2]], unit, least, limit, reached
      }
    }' "$1"
}

# Of several lines of one name the slowest counts.
table() {
  awk -v shapes="$SHAPES" '
    function field(name,   i, pair) { for (i = 3; i <= NF; i++) { split($i, pair, "="); if (pair[1] == name) return pair[2] } return "" }
    BEGIN { count = split(shapes, rows, "\n"); for (i = 1; i <= count; i++) { split(rows[i], row, "|"); unit[row[1]] = row[2] } }
    $1 == "bench" && $2 in unit {
      value = field(unit[$2]) + 0
      if (!($2 in worst) || value > worst[$2]) { worst[$2] = value; memory[$2] = field("peak_rss_mb"); inputs[$2] = field("inputs_mb") field("decoded_mb"); floor[$2] = field("floor_seconds") == "" ? field("floor_us") " µs" : field("floor_seconds") " s"; ratio[$2] = field("ratio") }
    }
    END {
      print "| shape | peer, on its own hardware | here | memory at most (of it the inputs) | floor | times the floor | aim | reached |"
      print "| --- | --- | --- | --- | --- | --- | --- | --- |"
      for (i = 1; i <= count; i++) {
        split(rows[i], row, "|"); name = row[1]
        if (!(name in worst)) continue
        text = row[2] == "seconds" ? worst[name] " s" : worst[name] " µs at p99"
        aim = row[2] == "seconds" ? row[4] " s" : row[4] " µs"
        held = memory[name] == "" ? "–" : memory[name] " MB (" inputs[name] " MB)"
        least = floor[name] ~ /^ / ? "–" : floor[name]
        printf "| %s | %s | %s | %s | %s | %s | %s | %s |\n", name, row[3], text, held, least, ratio[name] == "" ? "–" : ratio[name], aim, worst[name] <= row[4] + 0 ? "yes" : sprintf("no, %.1f times", worst[name] / row[4])
      }
    }' "$1"
}

# The page with everything between two marks replaced by a file.
between() {
  awk -v mark="$2" -v file="$3" '
    $0 == "<!-- " mark " -->" { print; while ((getline line < file) > 0) print line; skip = 1 }
    $0 == "<!-- end of " mark " -->" { skip = 0 }
    !skip { print }' "$1"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
case ${1:-} in
  --check) sed -n '/^<!-- lines of make bench -->$/,/^<!-- end of lines of make bench -->$/p' "$PAGE" | grep '^bench ' >"$work/lines" ;;
  ?*) grep '^bench ' "$1" >"$work/lines" || die "there is no line of a benchmark in $1" ;;
  *) die "usage: bench-table.sh FILE | --check" ;;
esac
{ echo '```'; cat "$work/lines"; echo '```'; } >"$work/block"
table "$work/lines" >"$work/table"
between "$PAGE" "lines of make bench" "$work/block" >"$work/page.1"
agent_table "$work/lines" >"$work/agent"
between "$work/page.1" "table of make bench" "$work/table" >"$work/page.2"
between "$work/page.2" "table of bench-agent" "$work/agent" >"$work/page.3"
if [[ $1 == --check ]]; then
  diff "$PAGE" "$work/page.3" >&2 || die "the tables of $PAGE do not follow from their lines; run scripts/bench-table.sh on what 'make bench' prints"
else
  cp "$work/page.3" "$PAGE"
  say "wrote $PAGE"
fi
