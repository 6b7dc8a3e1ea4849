//! busybox in the application kernel, compared with itself.

use std::path::Path;

use crate::places::Places;

#[test]
fn checksums() {
    let places = Places::new();
    for program in ["sha256sum", "md5sum", "sha1sum", "sha512sum", "cksum", "sum"] {
        places.same(&[program, "big", "words", "missing"]);
    }
    places.same_with(&["sha256sum"], Path::new("big"));
}

#[test]
fn sorting() {
    let places = Places::new();
    places.same(&["sort", "words"]);
    places.same(&["sort", "-n", "-k2", "-u", "words"]);
    places.same(&["sort", "-r", "-t", " ", "-k2,2n", "-k1,1", "words", "-o", "sorted"]);
    places.same(&["uniq", "-c", "sorted"]);
    places.same_with(&["sort", "-u"], Path::new("words"));
}

#[test]
fn awk() {
    let places = Places::new();
    let counted = places.same(&["awk", "{ n[$1] += $2 } END { for (k in n) print k, n[k] }", "words"]);
    assert!(counted.lines().count() > 200);
    // The heap grows to some megabytes, by brk and by mremap.
    places.same(&[
        "awk",
        "BEGIN { for (i = 0; i < 20; i++) s = s s \"0123456789\" i; print length(s); print s }",
    ]);
    places.same(&[
        "awk",
        "{ print > (\"part\" NR % 3) } END { printf \"%5.2f|%x\\n\", 3.14159, 255 }",
        "words",
    ]);
}

#[test]
fn sed_and_its_like() {
    let places = Places::new();
    places.same(&["sed", "-n", "-e", "s/w\\([0-9]*\\)/<\\1>/;/9>/p;$=", "words"]);
    places.same(&["sed", "-i", "5,10d;s/ x$/ y/", "words"]);
    places.same(&["cut", "-d", " ", "-f", "2", "words"]);
    places.same_with(&["tr", "a-z0-9", "A-Z#"], Path::new("words"));
    places.same(&["head", "-c", "100000", "big"]);
    places.same(&["tail", "-n", "5", "words"]);
    places.same(&["wc", "words", "big", "tree/a/one.txt"]);
    places.same(&["grep", "-rn", "needle", "tree"]);
    places.same(&["grep", "-c", "w1.* 7", "words"]);
    places.same(&["diff", "words", "tree/script"]);
    places.same(&["split", "-l", "3000", "words", "piece"]);
    places.same(&["cat", "words", "big"]);
    places.same(&["strings", "-n", "6", "big"]);
}

#[test]
fn numbers_and_bytes() {
    let places = Places::new();
    places.same(&["od", "-A", "x", "-t", "x1", "tree/a/b/large"]);
    places.same(&["hexdump", "-C", "tree/a/b/large"]);
    places.same(&["xxd", "tree/a/one.txt"]);
    places.same(&["base64", "tree/a/b/large"]);
    assert_eq!(places.same(&["expr", "6", "*", "7"]), "42\n");
    assert_eq!(places.same(&["seq", "-s", ",", "3"]), "1,2,3\n");
    assert_eq!(places.same(&["printf", "%05d %s|", "42", "x"]), "00042 x|");
    assert_eq!(places.same(&["factor", "1234567"]), "1234567: 127 9721\n");
    places.same(&["dd", "if=big", "of=copy", "bs=64k", "skip=3", "count=20", "status=none"]);
    places.same(&["cmp", "big", "copy"]);
    places.same_with(&["bc"], Path::new("/dev/null"));
    places.same_with(&["dc", "-e", "2 200 ^ p"], Path::new("/dev/null"));
}

#[test]
fn compression() {
    let places = Places::new();
    places.same(&["gzip", "-k", "words", "tree/a/b/large"]);
    places.same(&["mv", "words", "before"]);
    places.same(&["gunzip", "words.gz"]);
    places.same(&["cmp", "words", "before"]);
    places.same(&["gzip", "big"]);
    places.same(&["gunzip", "big.gz"]);
    places.same(&["bzip2", "words"]);
    places.same(&["bunzip2", "words.bz2"]);
    places.same_with(&["gzip", "-c", "-9"], Path::new("before"));
}

#[test]
fn archives() {
    let places = Places::new();
    places.same(&["tar", "-cf", "tree.tar", "tree"]);
    let list = places.same(&["tar", "-tvf", "tree.tar"]);
    assert!(list.contains("tree/a/b/large") && list.contains("tree/link -> a/one.txt"), "{list}");
    places.same(&["mkdir", "-p", "out/of"]);
    places.same(&["tar", "-xf", "tree.tar", "-C", "out/of"]);
    assert!(places.same(&["find", "out", "-type", "f"]).contains("out/of/tree/script"));
    places.same(&["diff", "-r", "tree", "out/of/tree"]);
    places.same_with(&["tar", "-t"], Path::new("tree.tar"));
}

#[test]
fn trees() {
    let places = Places::new();
    places.same(&["find", "tree", "-name", "*.txt"]);
    places.same(&["find", ".", "-size", "+1k", "-type", "f"]);
    places.same(&["find", "tree", "-perm", "-100", "-mtime", "+100"]);
    places.same(&["cp", "-a", "tree", "copy"]);
    places.same(&["ls", "-lR", "tree", "copy"]);
    places.same(&["mv", "copy/a", "copy/renamed"]);
    places.same(&["rm", "-r", "copy/renamed/b"]);
    places.same(&["ln", "-s", "nowhere", "copy/dangling"]);
    places.same(&["ln", "words", "copy/hard"]);
    places.same(&["chmod", "600", "copy/script"]);
    places.same(&["touch", "-d", "2001-02-03 04:05:06", "copy/touched"]);
    places.same(&["stat", "-c", "%n %s %a %F %Y %h", "copy/touched", "copy/hard"]);
    // The two directories were changed one after the other, maybe not in the same second.
    places.same(&["stat", "-c", "%n %s %a %F %h", "copy"]);
    places.same(&["rmdir", "tree/empty", "tree/a"]);
    places.same(&["readlink", "copy/dangling"]);
    places.same(&["truncate", "-s", "1000", "copy/hard"]);
    places.same(&["install", "-m", "640", "words", "copy/installed"]);
    places.same(&["cat", "tree"]);
}

#[test]
fn shell() {
    let places = Places::new();
    let script = "echo $((1+2)); for i in 1 2 3; do echo $i; done";
    assert_eq!(places.same(&["ash", "-c", script]), "3\n1\n2\n3\n");
    places.same(&[
        "ash",
        "-c",
        "cd tree/a && echo ../* && echo kept > kept && read x < kept; echo $x; exit 7",
    ]);
    places.same(&[
        "ash",
        "-c",
        "f() { local x=$1; echo \"${x%.*}\"; }; f a.b.c; read l < words; echo $l; umask",
    ]);
    places.same(&[
        "ash",
        "-c",
        "exec 3> out 4< words; read -r a <&4; read -r b <&4; echo $b $a >&3; test -s out",
    ]);
    places.same(&["ash", "-c", "trap 'echo bye' EXIT; set -e; false"]);
    places.same(&["false"]);
    places.same(&["nosuchapplet"]);
}

#[test]
fn the_world() {
    let places = Places::new();
    for arguments in [&["id"][..], &["uname", "-a"], &["whoami"], &["date", "-d", "@1000000000"]] {
        places.same(arguments);
    }
    places.same(&["sleep", "0.01"]);
    places.same(&["tty"]);
}
