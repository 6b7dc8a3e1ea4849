# criu pre-dump and farspace predump in turns on one process tree, each of what has changed since the other.
export TERM=dumb
tree=/tmp/tree
mkdir -p $tree/images
cd $tree/images
setsid farspace-victim tree --dir $tree --cold-mib $mib --hot $((mib * 256 / 1000)) --pause-ms 100 </dev/null >/dev/null 2>&1 &
pid=$!
until grep -q checks $tree/parent 2>/dev/null && grep -q checks $tree/child; do sleep 1; done
sleep 2
now() { awk '{ print int($1 * 1000) }' /proc/uptime; }

# stat DIR FIELD: a number of stats-dump, by its place in the format. To start Python for crit takes seconds here.
stat() {
    od -An -v -tu1 $1/stats-dump | tr -s ' ' '\n' | grep . | awk -v field=$2 '
        function number(  n, scale) {
            for (scale = 1; b[at] >= 128; scale *= 128) n += (b[at++] - 128) * scale
            return n + b[at++] * scale
        }
        { b[NR] = $1 }
        END {
            # Two magic numbers, the length of the message, its one field and the length of that.
            at = 15
            while (at < NR) { tag = number(); value = number(); if (int(tag / 8) == field) print value }
        }'
}
last=
for n in $(seq $rounds); do
    mkdir c$n
    begin=$(now)
    criu pre-dump -t $pid -D c$n ${last:+--prev-images-dir ../$last} --track-mem --shell-job -v0 -o log || exit 1
    took=$(($(now) - begin))
    echo "criu pre-dump $n: $took ms, frozen $(stat c$n 2) us, pages written $(stat c$n 7), in the parent $(stat c$n 6)"
    sleep 1
    begin=$(now)
    farspace predump $pid -o f$n --parent c$n --json >f$n.json || exit 1
    took=$(($(now) - begin))
    value() { sed -n "s/^ *\"$1\": \(.*[^,]\),*\$/\1/p" f$n.json | head -n 1; }
    echo "farspace predump $n: $took ms, all threads stopped $(value stop_ns) ns, one held $(value attach_stop_ns) ns," \
        "pages written $(value pages_written) + $(value shared_pages_written) shared, in the parent $(value pages_in_parent)," \
        "scan $(value scan_ns) ns, write $(value write_ns) ns, total $(value total_ns) ns"
    last=f$n
    sleep 1
done
[ -e $tree/harmed ] && cat $tree/harmed && exit 1
kill -9 $pid
