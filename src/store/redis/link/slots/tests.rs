use redis::{Value, parse_redis_value};

use super::super::super::names::Names;
use super::*;
use crate::clock::Hour;
use crate::id::AccountId;

fn tcp(host: &str, port: u16) -> Address {
    Address::Tcp(host.into(), port)
}

#[test]
fn slots_are_those_of_redis() {
    // By `CLUSTER KEYSLOT`.
    for (key, expected) in [
        ("", 0),
        ("123456789", 12_739),
        ("foo", 12_182),
        ("{foo}", 12_182),
        ("a{foo}b{bar}", 12_182),
        ("foo{}{bar}", 8_363),
        ("foo{{bar}}zap", 4_015),
        ("foo{bar", 15_278),
        ("{}x", 10_595),
    ] {
        assert_eq!(slot(key.as_bytes()), expected, "{key}");
    }
}

#[test]
fn the_keys_of_each_script_are_in_one_slot() {
    for prefix in ["tg:", "", "a/b.c-d_"] {
        let names = Names::new(prefix);
        for account in ["a", "org/team:1", "x.y-z"].map(|name| AccountId::new(name).unwrap()) {
            let (a, hour) = (&account, Hour(497_222));
            // PUBLISH, COMMIT, LAPSE, PUT_KEY, DRAIN and READ take some of these.
            let of_account = [
                names.head(a),
                names.row(a, "r-1"),
                names.row(a, "r-2"),
                names.replicas(a),
                names.outbox(a),
                names.lifetime(a, "r-1"),
                names.hours(a),
                names.hour(a, hour, "r-1"),
                names.ledger(a),
                names.claims(a),
                names.keys(a),
            ];
            assert!(in_one_slot(&of_account), "{of_account:?}");
        }
        // TOUCH, RELAY, and the question on a new connection.
        for keys in [names.spend(), names.events(), names.histories()] {
            assert!(in_one_slot(&keys), "{keys:?}");
        }
        // Accounts are spread.
        let [a, b] = ["a", "b"].map(|name| names.head(&AccountId::new(name).unwrap()));
        assert!(!in_one_slot(&[a, b]));
    }
}

fn reply(text: &str) -> Value {
    parse_redis_value(text.as_bytes()).unwrap()
}

#[test]
fn a_reply_says_where_to_go() {
    let asked = tcp("10.0.0.1", 7000);
    for (text, expected) in [
        ("+OK\r\n", Verdict::Done),
        ("-ERR no\r\n", Verdict::Done),
        ("-LOADING it is\r\n", Verdict::Done),
        (
            "-MOVED 3999 10.0.0.2:6381\r\n",
            Verdict::Moved(3_999, tcp("10.0.0.2", 6_381)),
        ),
        (
            "-MOVED 3999 :6381\r\n",
            Verdict::Moved(3_999, tcp("10.0.0.1", 6_381)),
        ),
        (
            "-MOVED 3999 ::1:6381\r\n",
            Verdict::Moved(3_999, tcp("::1", 6_381)),
        ),
        (
            "-ASK 1 node.example:6381\r\n",
            Verdict::Ask(tcp("node.example", 6_381)),
        ),
        ("-ASK 1\r\n", Verdict::Stale),
        ("-MOVED x y:1\r\n", Verdict::Stale),
        ("-TRYAGAIN on their way\r\n", Verdict::Later),
        ("-CLUSTERDOWN it is\r\n", Verdict::Stale),
        ("-READONLY it is\r\n", Verdict::Stale),
        ("-MASTERDOWN it is\r\n", Verdict::Stale),
    ] {
        assert_eq!(verdict(&asked, &reply(text)), expected, "{text}");
    }
}

fn bulk(text: &str) -> Value {
    Value::BulkString(text.into())
}

fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
    let node = |host, port| Value::Array(vec![host, Value::Int(port), bulk("id")]);
    let replica = node(bulk("10.9.9.9"), 9);
    Value::Array(vec![
        Value::Int(first),
        Value::Int(last),
        node(host, port),
        replica,
    ])
}

#[test]
fn a_node_tells_of_its_cluster() {
    let asked = tcp("10.0.0.1", 7000);
    let slots = Value::Array(vec![
        range(0, 5, bulk("10.0.0.2"), 1),
        range(6, 9, Value::Nil, 2),
        range(10, 11, bulk(""), 3),
        range(12, 13, bulk("10.0.0.3"), 0),
    ]);
    let nodes = "\
        a1 10.0.0.2:1@11 master - 0 1 1 connected 0-5\n\
        b2 10.0.0.4:4@14,name.example master - 0 1 2 connected\n\
        c3 10.0.0.5:5@15 slave a1 0 1 1 connected\n\
        d4 10.0.0.6:6@16 master,fail - 0 1 3 connected\n\
        e5 10.0.0.7:7@17 master,fail? - 0 1 3 connected\n\
        f6 :0@0 master,noaddr - 0 1 3 disconnected\n\
        g7 10.0.0.8:8@18 handshake - 0 1 0 connected\n\
        h8 10.0.0.1:7000@17000 myself,master - 0 1 4 connected\n";
    let replies = |state: &str| {
        let info = bulk(&format!("cluster_enabled:1\r\ncluster_state:{state}\r\n"));
        vec![info, slots.clone(), bulk(nodes)]
    };
    let expected = |whole| Told {
        whole,
        ranges: vec![
            (0, 5, tcp("10.0.0.2", 1)),
            (6, 9, tcp("10.0.0.1", 2)),
            (10, 11, tcp("10.0.0.1", 3)),
        ],
        others: vec![tcp("10.0.0.4", 4)],
    };
    assert_eq!(told(&asked, replies("ok")).unwrap(), expected(true));
    assert_eq!(told(&asked, replies("fail")).unwrap(), expected(false));
    let alone = vec![bulk("cluster_state:ok"), Value::Array(Vec::new()), bulk("")];
    assert!(told(&asked, alone).is_err());
    let refused = reply("-ERR This instance has cluster support disabled\r\n");
    let error = told(&asked, vec![refused]).unwrap_err().to_string();
    assert!(error.contains("cluster support disabled"), "{error}");
}
