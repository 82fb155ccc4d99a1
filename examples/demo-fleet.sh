#!/usr/bin/env bash
# Two clusters, two hubs, and what may happen to them: a hub is killed, a line is cut, a hub comes back; both hubs
# have every row then, by their own ledgers and by each other's count. Then an agent is killed, too: what nobody could
# scrape meanwhile is missing, and the ledger names it.
#
#   make demo-fleet            builds the program first
#   examples/demo-fleet.sh     with $MARIGRAPH or target/release/marigraph
#
# As root, with iproute2, each cluster is a network namespace with a line of its own to the hubs. Otherwise, or with
# LOOPBACK=1, all is on loopback, and no line is cut. About a minute; processes, namespaces and files go at the end, however it ends.
set -euo pipefail

program=$(realpath "${MARIGRAPH:-target/release/marigraph}")
dir=$(mktemp -d)
clusters=(berlin oslo)
hubs=(one two)
declare -A pid=()
namespaces=()

cleanup() {
  trap '' INT TERM
  for each in "${pid[@]}"; do kill -KILL "$each" 2>/dev/null || true; done
  wait 2>/dev/null || true
  for each in "${namespaces[@]}"; do ip netns del "$each" 2>/dev/null || true; done
  cd / && rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
cd "$dir"

say() { printf '\n\033[1m%4ss  %s\033[0m\n' "$SECONDS" "$*"; }
fail() {
  printf '\nFAILED: %s\n' "$*"
  tail -n 15 ./*.log
  exit 1
}

# --- places ---------------------------------------------------------------------------------------------------------

sea=mgsea$$
place() { # the namespace of a cluster, or of the hubs
  case $1 in one | two) echo "$sea" ;; *) echo "mg$$$1" ;; esac
}
in_place() { # place command...: becomes the command
  local place=$1
  shift
  if [ -n "$apart" ]; then exec ip netns exec "$(place "$place")" "$@"; else exec "$@"; fi
}
at_hubs() { (in_place one "$@"); }

make_places() {
  [ -z "${LOOPBACK:-}" ] && [ "$(id -u)" = 0 ] && command -v ip >/dev/null && ip netns add "$sea" 2>/dev/null || return 1
  namespaces+=("$sea")
  # Rules that cut come before the one that delivers.
  ip -n "$sea" rule add pref 100 lookup local && ip -n "$sea" rule del pref 0 || return 1
  ip -n "$sea" link set lo up && ip -n "$sea" addr add 10.99.0.1/32 dev lo || return 1
  local number=0 cluster net
  for cluster in "${clusters[@]}"; do
    number=$((number + 1))
    net=10.99.$number
    ip netns add "$(place "$cluster")" || return 1
    namespaces+=("$(place "$cluster")")
    ip -n "$(place "$cluster")" link set lo up
    ip -n "$sea" link add "to-$cluster" type veth peer name line netns "$(place "$cluster")" || return 1
    ip -n "$sea" addr add "$net.1/30" dev "to-$cluster"
    ip -n "$sea" link set "to-$cluster" up
    ip -n "$(place "$cluster")" addr add "$net.2/30" dev line
    ip -n "$(place "$cluster")" link set line up
    ip -n "$(place "$cluster")" route add default via "$net.1" || return 1
  done
}
# What comes from the cluster vanishes; nobody is told.
cut_line() { ip -n "$sea" rule add pref 1 iif "to-$1" blackhole; }
mend_line() { ip -n "$sea" rule del pref 1 iif "to-$1" blackhole; }

apart=
if make_places; then
  apart=yes host=10.99.0.1 listen=0.0.0.0
else
  host=127.0.0.1 listen=127.0.0.1
  cat <<'NOTE'
##########################################################################
##  No network namespaces here (they want root and iproute2): everything
##  runs on loopback, and NO LINE IS CUT. Kills are as real as ever.
##########################################################################
NOTE
fi

# --- processes ------------------------------------------------------------------------------------------------------

port() { case $1 in one) echo 9391 ;; two) echo 9392 ;; berlin) echo 9393 ;; oslo) echo 9394 ;; esac; }
asked() { echo "http://127.0.0.1:$(port "$1")"; }
credential=(--bearer-token-file "$dir/secret")

start_hub() {
  (in_place "$1" "$program" hub --data "$1" --config hub.yml --listen "$listen:$(port "$1")" --tls.name "$host" \
    --log.level warn >>"$1.log" 2>&1) &
  pid[$1]=$!
  until at_hubs curl -fs "$(asked "$1")/-/ready" >/dev/null 2>&1; do
    kill -0 "${pid[$1]}" 2>/dev/null || fail "hub $1 ended"
    sleep 0.1
  done
}
start_agent() { # cluster [token]
  local to=()
  for each in "${hubs[@]}"; do to+=(--hub "https://$host:$(port "$each")"); done
  (in_place "$1" "$program" agent "${to[@]}" --data "$1" --listen "127.0.0.1:$(port "$1")" --config "$1.yml" \
    ${2:+--token "$2"} --log.level error >>"$1.log" 2>&1) &
  pid[$1]=$!
}
kill_9() {
  kill -KILL "${pid[$1]}"
  wait "${pid[$1]}" 2>/dev/null || true
  unset "pid[$1]"
}

# --- questions ------------------------------------------------------------------------------------------------------

fleet() { # hub words...
  local hub=$1
  shift
  at_hubs "$program" fleet "$@" --url "$(asked "$hub")" "${credential[@]}"
}
rows() { # hub from to: how many rows of `up` it has of all clusters
  at_hubs curl -fsG "$(asked "$1")/api/v1/query" -H "Authorization: Bearer $(cat "$dir/secret")" \
    --data-urlencode "time=$3" --data-urlencode "query=sum(count_over_time(up{cluster!=\"\"}[$(($3 - $2))s]))" |
    sed -n 's/.*,"\([0-9]*\)"\].*/\1/p'
}
whole() { # hub from to: whether everything that was due is stored, for both clusters
  local account
  account=$(fleet "$1" --check --start "$2" --end "$3" 2>/dev/null) || return 1
  [ "$(grep -c ' 100 % ' <<<"$account")" = ${#clusters[@]} ]
}
wait_for() { # what seconds command...
  local what=$1 until=$((SECONDS + $2))
  shift 2
  until "$@"; do
    [ $SECONDS -lt $until ] || fail "$what"
    sleep 0.5
  done
}
all_send() { [ "$(fleet one 2>/dev/null | grep -cE '^(berlin|oslo) +yes')" = 2 ] && [ -n "$(rows two $(($(date +%s) - 5)) "$(date +%s)")" ]; }

# --- the story ------------------------------------------------------------------------------------------------------

(umask 077 && head -c 18 /dev/urandom | base64 >secret)
echo "web: {auth: {bearer_token_file: $dir/secret}}" >hub.yml
for cluster in "${clusters[@]}"; do
  cat >"$cluster.yml" <<YAML
global: {scrape_interval: 1s, scrape_timeout: 1s}
machine: {}
scrape_configs:
  - job_name: node
    metrics_path: /metrics/machine
    static_configs: [{targets: ["127.0.0.1:$(port "$cluster")"]}]
  - job_name: agent
    static_configs: [{targets: ["127.0.0.1:$(port "$cluster")"]}]
YAML
done

say "two hubs; the second joins the fleet of the first"
for hub in "${hubs[@]}"; do start_hub "$hub"; done
join=$(at_hubs "$program" token create --join --hub "$(asked one)" "${credential[@]}" 2>/dev/null)
at_hubs "$program" hub join "https://$host:$(port one)" --token "$join" --hub "$(asked two)" "${credential[@]}" >/dev/null
say "two clusters enrol at hub one; each agent feeds both hubs, a row of each target every second"
for cluster in "${clusters[@]}"; do
  start_agent "$cluster" \
    "$(at_hubs "$program" token create --cluster "$cluster" --hub "$(asked one)" "${credential[@]}" 2>/dev/null)"
done
wait_for "the agents do not send" 20 all_send
from=$(($(date +%s) + 1))
sleep 4

say "kill -9 hub one"
kill_9 one
sleep 5
if [ -n "$apart" ]; then
  say "the line of berlin is cut: packets vanish, nobody is told"
  cut_line berlin
fi
sleep 17
say "hub two, meanwhile"
fleet two --start "$from" --end "$(date +%s)"

say "hub one is back${apart:+, and the line of berlin}"
start_hub one
[ -z "$apart" ] || mend_line berlin
to=$(date +%s)
for hub in "${hubs[@]}"; do wait_for "hub $hub does not get every row" 45 whole "$hub" "$from" "$to"; done
say "every row is home: the ledgers from the first second to here"
for hub in "${hubs[@]}"; do
  echo "hub $hub:"
  fleet "$hub" --start "$from" --end "$to"
done
one=$(rows one "$from" "$to") two=$(rows two "$from" "$to")
[ -n "$one" ] && [ "$one" = "$two" ] || fail "hub one has ${one:-no} rows, hub two ${two:-no}"

say "kill -9 the agent in oslo; three seconds later it starts again, without a token"
away=$(date +%s)
kill_9 oslo
sleep 3
start_agent oslo
sleep 7
until=$(($(date +%s) - 4))
agree() { [ "$(rows one "$away" $until)" = "$(rows two "$away" $until)" ]; }
wait_for "the hubs have different rows" 20 agree
say "what nobody could scrape meanwhile is missing at both hubs, by name"
fleet two gaps --start "$away" --end $until || true

say "done: $one rows through a kill${apart:+ and a cut}, all of them at both hubs"
