#!/usr/bin/env bash
# Two clusters, two hubs, and what happens to them: an agent is killed, a hub is killed and stays away, and
# at the end both hubs have every row, by their own ledgers and by each other's count.
#
#   make demo-fleet            builds the program first
#   examples/demo-fleet.sh     with $MARIGRAPH or target/release/marigraph
#
# Everything runs on loopback, in a directory that goes away, for about a minute.
set -euo pipefail
program=$(realpath "${MARIGRAPH:-target/release/marigraph}")
dir=$(mktemp -d)
declare -A pids
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$dir"
}
trap cleanup EXIT
cd "$dir"

say() { printf '\n%s\n' "== $*"; }
a=127.0.0.1:9391 b=127.0.0.1:9392

hub() { # name address
  "$program" hub --data "$1" --config hub.yml --listen "$2" >>"$1.log" 2>&1 &
  pids[$1]=$!
  until curl -fs "http://$2/-/ready" >/dev/null; do sleep 0.2; done
}
agent() { # cluster listen [token]
  "$program" agent --hub "https://$a" --hub "https://$b" --data "$1" --listen "$2" --config "$1.yml" \
    ${3:+--token "$3"} >>"$1.log" 2>&1 &
  pids[$1]=$!
}
end() { # signal name
  kill "-$1" "${pids[$2]}"
  wait "${pids[$2]}" 2>/dev/null || true
}
rows() { # hub cluster: how many rows of `up` it has up to a common time
  curl -fsG "http://$1/api/v1/query" --data-urlencode "time=$until" \
    --data-urlencode "query=sum(count_over_time(up{cluster=\"$2\"}[1h]))" |
    sed -n 's/.*,"\([0-9]*\)"\].*/\1/p'
}

echo 'global: {}' >hub.yml
for cluster in berlin:9393 oslo:9394; do
  name=${cluster%:*} port=${cluster#*:}
  cat >"$name.yml" <<YAML
global: {scrape_interval: 1s, scrape_timeout: 1s}
machine: {}
scrape_configs:
  - job_name: node
    metrics_path: /metrics/machine
    static_configs: [{targets: ["127.0.0.1:$port"]}]
  - job_name: agent
    static_configs: [{targets: ["127.0.0.1:$port"]}]
YAML
done

say "two hubs; the second joins the first one's fleet"
hub one "$a"
hub two "$b"
join=$("$program" token create --join --hub "http://$a" 2>/dev/null)
"$program" hub join "https://$a" --token "$join" --hub "http://$b"

say "two clusters enrol at the first hub and send to both"
agent berlin 127.0.0.1:9393 "$("$program" token create --cluster berlin --hub "http://$a" 2>/dev/null)"
agent oslo 127.0.0.1:9394 "$("$program" token create --cluster oslo --hub "http://$a" 2>/dev/null)"
sleep 10

say "kill -9 hub one: rows wait at the agents"
end KILL one
sleep 8
say "kill -9 the agent in berlin, and start it again, without its token"
end KILL berlin
agent berlin 127.0.0.1:9393
sleep 8
say "hub one is back"
hub one "$a"
sleep 12

say "what was due, what is stored"
until=$(($(date +%s) - 2))
"$program" fleet --url "http://$a"
"$program" fleet gaps --url "http://$a" || true
failed=0
for cluster in berlin oslo; do
  one=$(rows "$a" $cluster) two=$(rows "$b" $cluster)
  echo "$cluster: hub one has $one rows, hub two has $two"
  [ -n "$one" ] && [ "$one" = "$two" ] && [ "$one" -gt 20 ] || failed=1
done
[ $failed = 0 ] || { echo "the hubs differ: logs follow"; tail -n 20 ./*.log; exit 1; }
echo "both hubs have every row"
