//! `[store]`: the ways to Redis.

use super::*;

#[test]
fn there_is_one_way_to_redis_and_all_of_it() {
    let check = |rest: &str, key: &str, says: &str| {
        wrong(&format!("[store]\nkind = 'redis'\n{rest}"), key, says);
    };
    let (url, sentinels, master, cluster) = (
        "url = 'redis://a'\n",
        "sentinels = ['a:1']\n",
        "master = 'm'\n",
        "cluster = ['redis://a:1']\n",
    );
    check(
        &format!("{url}{cluster}"),
        "store.cluster",
        "so is store.url",
    );
    check(
        &format!("{url}{sentinels}{master}"),
        "store.sentinels",
        "leave one of them out",
    );
    check(
        &format!("{sentinels}{master}{cluster}"),
        "store.cluster",
        "so is store.sentinels",
    );
    check(
        sentinels,
        "store.master",
        "is missing; write master = \"mymaster\"",
    );
    check(
        &format!("{url}{master}"),
        "store.master",
        "write sentinels = [",
    );
    check(
        &format!("{cluster}sentinel_password = 'x'"),
        "store.sentinel_password",
        "is for sentinels",
    );
    check(
        "sentinels = []\nmaster = 'm'",
        "store.sentinels",
        "1 to 32 of them in brackets",
    );
    check(
        "sentinels = 'a:1'\nmaster = 'm'",
        "store.sentinels",
        "such as [\"10.0.0.1:26379\"]",
    );
    for odd in [
        "a",
        "a:0",
        "a:x",
        ":1",
        "::1:1",
        "redis://a:1",
        "u@a:1",
        "a b:1",
    ] {
        check(
            &format!("sentinels = ['{odd}']\nmaster = 'm'"),
            "store.sentinels",
            odd,
        );
    }
    for odd in [
        "a:1",
        "redis://a",
        "unix:///a",
        "redis://a:1/2",
        "redis://u:p@a:1",
        "http://a:1",
    ] {
        check(
            &format!("cluster = ['{odd}']"),
            "store.cluster",
            "such as [\"redis://10.0.0.1:6379\"]",
        );
    }
    check(
        "cluster = ['redis://a:1', 'rediss://b:1']",
        "store.cluster",
        "all nodes speak TLS",
    );
    check(
        "url = 'rediss://a#insecure'",
        "store.url",
        "leave out the #",
    );
    check("url = 'http://a'", "store.url", "rediss://host:6379");
    check(
        &format!("{url}user = 'u'"),
        "store.user",
        "has no password beside it",
    );
    check(
        "url = 'redis://:x@a'\npassword = 'y'",
        "store.url",
        "there is one beside it",
    );
    check(
        &format!("{url}[store.tls]\n"),
        "store.tls",
        "write rediss://",
    );
    check(
        &format!("{cluster}[store.tls]\n"),
        "store.tls",
        "write rediss://",
    );
    let tls = "url = 'rediss://a'\n[store.tls]\n";
    check(
        &format!("{tls}cert = '/etc/hostname'"),
        "store.tls.key",
        "is missing",
    );
    check(
        &format!("{tls}server_name = 'a b'"),
        "store.tls.server_name",
        "host's name",
    );
    check(
        &format!("{tls}ca_file = '/nowhere.pem'"),
        "store.tls.ca_file",
        "cannot be opened",
    );
    for key in [
        "sentinels = ['a:1']",
        "cluster = ['redis://a:1']",
        "password = 'x'",
        "master = 'm'",
    ] {
        let name = key.split(' ').next().unwrap();
        wrong(
            &format!("[store]\n{key}"),
            &format!("store.{name}"),
            "write kind = \"redis\"",
        );
    }
    for right in [
        "url = 'redis+unix:///run/redis.sock'",
        "url = 'rediss://u:p@[::1]:6380/3'",
        "url = 'redis://a'\npassword = 'x'",
        "sentinels = ['a:1', '[::1]:2']\nmaster = 'm'\nuser = 'u'\npassword = 'x'\n[store.tls]",
        "cluster = ['rediss://a:1', 'rediss://[::1]:2']\n[store.tls]\nserver_name = '10.0.0.1'",
    ] {
        read(&format!("[store]\nkind = 'redis'\n{right}"), NO_ENV).unwrap();
    }
    let env = [
        ("TOLLGATE_STORE__KIND", "redis"),
        ("TOLLGATE_STORE__CLUSTER__0", "redis://a:1"),
        ("TOLLGATE_STORE__CLUSTER__1", "redis://b:1"),
    ];
    let StoreKind::Redis(redis) = read("", env).unwrap().store.kind else {
        panic!("it is Redis");
    };
    let seeds = ["redis://a:1", "redis://b:1"].map(str::to_owned);
    assert_eq!(redis.reach, RedisReach::Cluster(seeds.into()));
    // No password is told.
    let text = "[store]\nkind = 'redis'\nurl = 'redis://:pa55@a'\npassword = 'pa55'\nsentinel_password = 'pa55'";
    let told = read(text, NO_ENV).map(drop).unwrap_err().join("\n");
    assert!(!told.contains("pa55"), "{told}");
}
