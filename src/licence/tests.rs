use super::*;

/// The first key pair of RFC 8032, section 7.1.
const SECRET: [u8; 32] = [
    0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4,
    0x44, 0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
];
const PUBLIC: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

/// As `openssl genpkey -algorithm ed25519` writes it.
fn pem() -> String {
    let mut der = vec![
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04,
        0x20,
    ];
    der.extend(SECRET);
    let (words, text) = ("PRIVATE KEY", STANDARD.encode(der));
    format!("-----BEGIN {words}-----\n{text}\n-----END {words}-----\n")
}

fn at(nanos: i64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

const ACTIVATES: i64 = 1_790_000_000_000_000_000;
const EXPIRES: i64 = ACTIVATES + 86_400_000_000_000;

fn licence() -> Licence {
    Licence {
        id: "lic-1".into(),
        kid: String::new(),
        account: AccountId::new("acme").unwrap(),
        activates: at(ACTIVATES),
        expires: at(EXPIRES),
        models: vec!["vision*".into()],
    }
}

fn signer() -> Signer {
    Signer::from_pem("2026", pem().as_bytes()).unwrap()
}

fn keys() -> Keys {
    Keys::from([("2026".into(), signer().public_key())])
}

#[test]
fn what_was_signed_reads_back() {
    let text = signer().sign(licence()).unwrap();
    assert!(is_meant(text.as_bytes()));
    let read = verify(&keys(), text.as_bytes()).unwrap();
    let kid = "2026".into();
    assert_eq!(read, Licence { kid, ..licence() });
    assert_eq!(read.counted_as().unwrap().as_str(), "licence:lic-1");
}

#[test]
fn the_public_half_is_the_one_that_openssl_gives() {
    let public: PublicKey = PUBLIC.parse().unwrap();
    assert_eq!(public, signer().public_key());
    assert_eq!(public.to_string(), PUBLIC);
    // What `openssl pkey -pubout -outform DER | base64` says.
    let spki = STANDARD.encode([SPKI.as_slice(), &public.0].concat());
    assert_eq!(spki.parse(), Ok(public));
    for wrong in ["", "x", "AAAA", &PUBLIC[..40]] {
        assert_eq!(wrong.parse::<PublicKey>(), Err(KeyError::Public), "{wrong}");
    }
    let wrong = Signer::from_pem("k", b"nothing").unwrap_err();
    assert_eq!(wrong, KeyError::Private);
}

#[test]
fn both_ends_are_exact_to_the_nanosecond() {
    let licence = licence();
    let check = |now: i64, want: Option<Invalid>| {
        assert_eq!(licence.standing(None, at(now)), want, "{now}");
    };
    check(ACTIVATES - 1, Some(Invalid::NotYet));
    check(ACTIVATES, None);
    check(ACTIVATES + 1, None);
    check(EXPIRES - 1, None);
    check(EXPIRES, Some(Invalid::Expired));
    check(EXPIRES + 1, Some(Invalid::Expired));
    // A revocation is a deadline as the others are, and comes before them.
    let revoked = |now: i64| licence.standing(Some(at(ACTIVATES + 5)), at(now));
    assert_eq!(revoked(ACTIVATES - 1), Some(Invalid::NotYet));
    assert_eq!(revoked(ACTIVATES + 4), None);
    assert_eq!(revoked(ACTIVATES + 5), Some(Invalid::Revoked));
    assert_eq!(revoked(EXPIRES), Some(Invalid::Revoked));
}

#[test]
fn each_way_of_being_wrong_has_its_reason() {
    for (invalid, reason) in [
        (Invalid::Forged, Reason::KeyUnknown),
        (Invalid::NotYet, Reason::KeyUnknown),
        (Invalid::Expired, Reason::KeyExpired),
        (Invalid::Revoked, Reason::KeyRevoked),
    ] {
        assert_eq!(invalid.reason(), reason);
    }
}

#[test]
fn no_byte_of_it_can_be_changed_or_left_out() {
    let text = signer().sign(licence()).unwrap();
    let keys = keys();
    for place in 0..text.len() {
        let mut other = text.clone().into_bytes();
        other[place] ^= 1;
        assert!(verify(&keys, &other).is_err(), "byte {place} was changed");
        assert!(
            verify(&keys, &text.as_bytes()[..place]).is_err(),
            "cut at {place}"
        );
        let mut without = text.clone().into_bytes();
        without.remove(place);
        assert!(
            verify(&keys, &without).is_err(),
            "byte {place} was left out"
        );
    }
    for longer in [
        format!("{text}A"),
        format!("{text}="),
        format!("{text}."),
        format!(" {text}"),
    ] {
        assert!(verify(&keys, longer.as_bytes()).is_err(), "{longer}");
    }
}

/// A licence of any JSON, signed as it should be.
fn signed(json: &str) -> String {
    let signed = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(json));
    let signature = signer().pair.sign(signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
}

#[test]
fn what_is_signed_is_not_believed_for_that_alone() {
    let good = r#"{"id":"a","kid":"2026","account":"x","activates":"2026-01-01T00:00:00Z","expires":"2027-01-01T00:00:00Z"}"#;
    let check = |json: &str, want: bool| {
        assert_eq!(
            verify(&keys(), signed(json).as_bytes()).is_ok(),
            want,
            "{json}"
        );
    };
    check(good, true);
    // A restriction that is not understood, another key, no name, an end before its beginning, a field twice, no object.
    check(&good.replace("\"id\"", "\"qps\":1,\"id\""), false);
    check(&good.replace("2026\",\"acc", "2025\",\"acc"), false);
    check(&good.replace("\"a\"", "\"\""), false);
    check(&good.replace("2027", "2025"), false);
    check(&good.replace("\"id\"", "\"id\":\"b\",\"id\""), false);
    check("[]", false);
    check("", false);
}

#[test]
fn another_signature_under_a_known_name_is_forged() {
    let text = signer().sign(licence()).unwrap();
    let other = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new());
    let other = Ed25519KeyPair::from_pkcs8(other.unwrap().as_ref()).unwrap();
    let mut bytes = [0; 32];
    bytes.copy_from_slice(other.public_key().as_ref());
    let keys = Keys::from([("2026".into(), PublicKey(bytes))]);
    assert_eq!(verify(&keys, text.as_bytes()), Err(Invalid::Forged));
    assert_eq!(verify(&Keys::new(), text.as_bytes()), Err(Invalid::Forged));
    // A signature that is good for other words is none for these.
    let (signed, _) = text.rsplit_once('.').unwrap();
    let moved = signer()
        .sign(Licence {
            id: "lic-2".into(),
            ..licence()
        })
        .unwrap();
    let (_, signature) = moved.rsplit_once('.').unwrap();
    let mixed = format!("{signed}.{signature}");
    assert_eq!(
        verify(&self::keys(), mixed.as_bytes()),
        Err(Invalid::Forged)
    );
}

#[test]
fn what_cannot_be_is_not_signed() {
    let check = |licence: Licence, want: &str| {
        let error = signer().sign(licence).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    };
    let expires = at(ACTIVATES);
    check(
        Licence {
            expires,
            ..licence()
        },
        "expires is",
    );
    check(
        Licence {
            id: "a b".into(),
            ..licence()
        },
        "id `a b`",
    );
    let long = "a".repeat(NAME_BYTES_MAX - COUNTED_AS.len());
    assert!(
        signer()
            .sign(Licence {
                id: long.clone(),
                ..licence()
            })
            .is_ok()
    );
    check(
        Licence {
            id: long + "a",
            ..licence()
        },
        "1 to 120 of",
    );
    check(
        Licence {
            models: vec!["a*b".into()],
            ..licence()
        },
        "models has `a*b`",
    );
    let models = vec!["m".repeat(100); 100];
    check(
        Licence {
            models,
            ..licence()
        },
        "name fewer models",
    );
}
