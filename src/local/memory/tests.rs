use super::*;
use crate::local::counters::RowId;

fn replica() -> ReplicaId {
    ReplicaId::new("r-1").unwrap()
}

fn account(name: &str) -> AccountId {
    AccountId::new(name).unwrap()
}

fn open(dir: &Path) -> Memory {
    Memory::open(dir, &replica()).unwrap()
}

fn document(format: u32, bytes: &[u8]) -> Document {
    Document {
        format,
        bytes: bytes.to_vec(),
    }
}

fn tallied(name: &str, key: &str, cost: i64, generation: Option<u64>) -> Tallied {
    Tallied {
        account: account(name),
        row: RowId {
            hour: Hour(1),
            key: KeyId::new(key).unwrap(),
            model: None,
        },
        tally: Tally {
            exact: 1,
            cost_nanos: cost,
            ..Tally::default()
        },
        generation,
    }
}

fn costs(memory: &Memory, name: &str) -> Vec<(String, i64)> {
    let rows = memory.lifetime(&account(name)).unwrap();
    rows.iter()
        .map(|row| (row.key.to_string(), row.tally.cost_nanos))
        .collect()
}

#[test]
fn documents_are_kept_and_read_in_pages() {
    let dir = tempfile::tempdir().unwrap();
    let memory = open(dir.path());
    let all: Vec<_> = (0..25)
        .map(|n| (account(&format!("a{n:02}")), document(n, &[7; 3])))
        .collect();
    memory.keep(&all).unwrap();
    memory
        .keep(&[(account("a03"), document(99, b"newer"))])
        .unwrap();
    memory.keep(&[]).unwrap();
    drop(memory);
    let memory = open(dir.path());
    let mut read = Vec::new();
    loop {
        let after = read
            .last()
            .map(|(account, _): &(AccountId, Document)| account);
        let page = memory.kept_after(after, 10).unwrap();
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 10);
        read.extend(page);
    }
    let mut want = all;
    want[3].1 = document(99, b"newer");
    assert_eq!(read, want);
    assert_eq!(
        memory.kept(&account("a03")).unwrap(),
        Some(document(99, b"newer"))
    );
    memory.forget(&account("a03")).unwrap();
    memory.forget(&account("nobody")).unwrap();
    assert_eq!(memory.kept(&account("a03")).unwrap(), None);
    assert_eq!(
        memory.kept(&account("a04")).unwrap(),
        Some(document(4, &[7; 3]))
    );
}

#[test]
fn named_documents_are_apart_from_accounts() {
    let dir = tempfile::tempdir().unwrap();
    let memory = open(dir.path());
    memory.keep_named("prices", &document(1, b"[]")).unwrap();
    memory.keep_named("prices", &document(2, b"{}")).unwrap();
    assert_eq!(memory.named("prices").unwrap(), Some(document(2, b"{}")));
    assert_eq!(memory.named("policies").unwrap(), None);
    assert_eq!(memory.kept(&account("prices")).unwrap(), None);
    assert_eq!(memory.kept_after(None, 10).unwrap(), []);
}

#[test]
fn folds_add_up_by_account_key_and_model() {
    let dir = tempfile::tempdir().unwrap();
    let memory = open(dir.path());
    let slots = [
        tallied("a", "k1", 5, Some(1)),
        tallied("a", "k1", 6, Some(2)),
        tallied("a", "k2", 7, None),
        tallied("ab", "k1", 8, Some(3)),
    ];
    memory.fold(9, Hour(4), &slots, &[]).unwrap();
    assert_eq!(memory.marks().unwrap(), [(9, 1), (9, 2), (9, 3)]);
    let more = [tallied("a", "k1", 1, Some(4))];
    memory.fold(9, Hour(3), &more, &[1, 3]).unwrap();
    drop(memory);
    let memory = open(dir.path());
    assert_eq!(costs(&memory, "a"), [("k1".into(), 12), ("k2".into(), 7)]);
    assert_eq!(costs(&memory, "ab"), [("k1".into(), 8)]);
    assert_eq!(costs(&memory, "b"), []);
    assert_eq!(memory.marks().unwrap(), [(9, 2), (9, 4)]);
    assert_eq!(memory.closed_before().unwrap(), Some(Hour(4)), "the latest");
    memory.drop_marks(&[(9, 2), (9, 4)]).unwrap();
    assert_eq!(memory.marks().unwrap(), []);
}

#[test]
fn what_the_store_knew_only_raises() {
    let dir = tempfile::tempdir().unwrap();
    let memory = open(dir.path());
    memory
        .fold(9, Hour(4), &[tallied("a", "k1", 5, Some(1))], &[])
        .unwrap();
    let row = |key: &str, exact, none, cost_nanos| UsageRow {
        hour: None,
        key: KeyId::new(key).unwrap(),
        model: ModelName::new("m").ok().filter(|_| key == "k2"),
        tally: Tally {
            exact,
            none,
            cost_nanos,
            ..Tally::default()
        },
    };
    memory
        .raise(&account("a"), &[row("k1", 0, 3, 9), row("k2", 1, 0, 2)])
        .unwrap();
    memory.raise(&account("a"), &[row("k1", 1, 1, 1)]).unwrap();
    let want = [row("k1", 1, 3, 9), row("k2", 1, 0, 2)];
    assert_eq!(memory.lifetime(&account("a")).unwrap(), want);
}

fn refused(dir: &Path) -> MemoryError {
    let before = std::fs::read(dir.join(FILE)).unwrap();
    let error = Memory::open(dir, &replica()).expect_err("a file that is not as it was");
    let message = error.to_string();
    assert!(message.contains(FILE), "{message}");
    assert!(
        std::fs::read(dir.join(FILE)).unwrap() == before,
        "written to: {message}"
    );
    error
}

#[test]
fn what_is_no_memory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for content in [&b""[..], b"{}", &[0; 10_000], b"redb"] {
        std::fs::write(dir.path().join(FILE), content).unwrap();
        assert!(matches!(refused(dir.path()), MemoryError::Foreign { .. }));
    }
    // A database of somebody else.
    std::fs::remove_file(dir.path().join(FILE)).unwrap();
    let theirs = Database::create(dir.path().join(FILE)).unwrap();
    let txn = theirs.begin_write().unwrap();
    let table: TableDefinition<'_, &str, u64> = TableDefinition::new("theirs");
    txn.open_table(table).unwrap();
    txn.commit().unwrap();
    drop(theirs);
    let error = Memory::open(dir.path(), &replica()).unwrap_err();
    assert!(matches!(error, MemoryError::Foreign { .. }), "{error:?}");
}

#[test]
fn another_format_or_replica_is_refused() {
    let edit = |name: &str, json: &[u8]| {
        let dir = tempfile::tempdir().unwrap();
        let memory = open(dir.path());
        let txn = memory.db.begin_write().unwrap();
        txn.open_table(META).unwrap().insert(name, json).unwrap();
        txn.commit().unwrap();
        drop(memory);
        Memory::open(dir.path(), &replica()).unwrap_err()
    };
    let error = edit("format", b"2");
    assert!(
        matches!(&error, MemoryError::Version { found, .. } if found == "2"),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("use a tollgate that reads 2"),
        "{error}"
    );
    assert!(matches!(
        edit("replica", br#""r-2""#),
        MemoryError::NotOurs { .. }
    ));
    assert!(matches!(
        edit("replica", br#""{}""#),
        MemoryError::Corrupt { .. }
    ));
}

#[test]
fn a_value_that_cannot_be_what_was_written_is_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let memory = open(dir.path());
    let txn = memory.db.begin_write().unwrap();
    txn.open_table(LIFETIME)
        .unwrap()
        .insert(("a", "k", ""), &b"{"[..])
        .unwrap();
    txn.open_table(LIFETIME)
        .unwrap()
        .insert(("b", "{", ""), &b"{}"[..])
        .unwrap();
    txn.commit().unwrap();
    for name in ["a", "b"] {
        let error = memory.lifetime(&account(name)).unwrap_err();
        assert!(matches!(error, MemoryError::Corrupt { .. }), "{error:?}");
    }
    assert_eq!(memory.lifetime(&account("c")).unwrap(), []);
    let fold = memory.fold(9, Hour(1), &[tallied("a", "k", 1, None)], &[]);
    assert!(fold.is_err(), "it is not overwritten");
}

#[test]
fn a_damaged_file_is_an_error_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let memory = open(dir.path());
    let documents: Vec<_> = (0..200)
        .map(|n| (account(&format!("a{n}")), document(1, &[n; 300])))
        .collect();
    memory.keep(&documents).unwrap();
    drop(memory);
    let path = dir.path().join(FILE);
    let whole = std::fs::read(&path).unwrap();
    let mut refused = 0;
    // The start of the file, where what is not data is, cut and scribbled on.
    for at in (9..4_096).step_by(97) {
        let mut torn = whole.clone();
        torn[at..at + 32].fill(0xa5);
        std::fs::write(&path, &torn).unwrap();
        if let Err(error) = Memory::open(dir.path(), &replica()) {
            refused += 1;
            assert!(error.to_string().contains(FILE), "{error}");
        }
    }
    assert!(refused > 0);
    for length in [9, 100, 4_096, whole.len() / 2] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = Memory::open(dir.path(), &replica()).unwrap_err();
        assert!(error.to_string().contains(FILE), "{error}");
    }
}

#[test]
fn one_at_a_time_has_it_open() {
    let dir = tempfile::tempdir().unwrap();
    let memory = open(dir.path());
    let error = Memory::open(dir.path(), &replica()).unwrap_err();
    assert!(matches!(error, MemoryError::InUse { .. }), "{error:?}");
    drop(memory);
    open(dir.path());
}

#[test]
fn a_file_that_is_still_being_made_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    for torn in [&b""[..], b"redb", &[0xff; 5_000]] {
        std::fs::write(dir.path().join(NEW_FILE), torn).unwrap();
        drop(open(dir.path()));
        assert!(!dir.path().join(NEW_FILE).exists());
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
    }
}
