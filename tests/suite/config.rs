//! Configurations: what each gives, and which are refused.

use millet::{
    Activation, AuxScale, Capacity, ConfigError, DropPolicy, Error, GroupLimit, Losses, MoeConfig,
    Renormalize, ScoreFunction, SingleExpert,
};

#[test]
fn capacity_formula() {
    let capacity = |tokens: usize, top_k, experts, factor| {
        MoeConfig::builder(1, 1, experts, top_k)
            .score_function(ScoreFunction::SoftmaxBeforeTopK)
            .capacity(Capacity::new(factor))
            .build()
            .unwrap()
            .expert_capacity(tokens)
    };
    assert_eq!(capacity(100, 8, 128, 1.5), 10);
    assert_eq!(capacity(100, 1, 8, 1.2), 15); // 16 in f32 arithmetic
    assert_eq!(capacity(8192, 8, 128, 1.5), 768);
    assert_eq!(capacity(8192, 8, 128, 0.0), 0);
    assert_eq!(capacity(10, 2, 4, 1e300), 10); // an expert takes a token once
    assert_eq!(capacity(0, 2, 4, 1.5), 0);
}

#[test]
fn every_configuration_error() {
    use ScoreFunction::{Sigmoid, SoftmaxAfterTopK, SoftmaxBeforeTopK};
    let ok = || MoeConfig::builder(8, 8, 8, 2);
    let sizes = |h, i, e, k| MoeConfig::builder(h, i, e, k).build().unwrap_err();
    let groups = |groups, selected| ok().groups(GroupLimit { groups, selected });
    let value = |error: ConfigError, name: &str| {
        assert!(
            matches!(error, ConfigError::Value { what, .. } if what == name),
            "{error}"
        );
        assert!(error.to_string().contains(name), "{error}");
    };
    ok().build().unwrap();

    assert_eq!(
        sizes(0, 8, 8, 2),
        ConfigError::Zero {
            what: "hidden_size"
        }
    );
    assert_eq!(
        sizes(8, 0, 8, 2),
        ConfigError::Zero {
            what: "intermediate_size"
        }
    );
    assert_eq!(
        sizes(8, 8, 0, 2),
        ConfigError::Zero {
            what: "num_experts"
        }
    );
    assert_eq!(sizes(8, 8, 8, 0), ConfigError::Zero { what: "top_k" });
    for (error, name) in [
        (sizes(usize::MAX, 8, 8, 2), "hidden_size"),
        (sizes(8, usize::MAX, 8, 2), "intermediate_size"),
        (sizes(8, 8, usize::MAX, 2), "num_experts"),
        (sizes(8, 8, 8, usize::MAX), "top_k"),
    ] {
        let ConfigError::TooLarge {
            what,
            given: usize::MAX,
            limit,
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(what, name);
        let message = error.to_string();
        assert!(
            message.contains(name) && message.contains(&limit.to_string()),
            "{message}"
        );
    }
    let error = sizes(8, 8, 8, 9);
    assert_eq!(
        error,
        ConfigError::TopKOverExperts {
            top_k: 9,
            num_experts: 8
        }
    );
    assert!(error.to_string().contains('9') && error.to_string().contains('8'));

    let one = MoeConfig::builder(8, 8, 8, 1);
    let error = one.clone().build().unwrap_err();
    assert_eq!(error, ConfigError::SingleExpertHasNoGradient);
    assert!(error.to_string().contains("StraightThrough"));
    one.clone()
        .single_expert(SingleExpert::StraightThrough)
        .build()
        .unwrap();
    one.clone().score_function(Sigmoid).build().unwrap();
    for (top_k, score_function) in [
        (2, SoftmaxAfterTopK),
        (1, SoftmaxBeforeTopK),
        (1, Sigmoid),
        (2, Sigmoid),
    ] {
        let builder = MoeConfig::builder(8, 8, 8, top_k).score_function(score_function);
        let error = builder
            .single_expert(SingleExpert::StraightThrough)
            .build()
            .unwrap_err();
        let expected = ConfigError::StraightThroughNeedsSingleExpert {
            top_k,
            score_function,
        };
        assert_eq!(error, expected);
    }
    let renormalized = Capacity::new(1.0).renormalize(Renormalize::AfterDrop);
    let error = one
        .score_function(Sigmoid)
        .capacity(renormalized)
        .build()
        .unwrap_err();
    assert_eq!(error, ConfigError::RenormalizeSingleExpert);

    for bad in [f64::NAN, f64::INFINITY, -1.0] {
        value(
            ok().scaling_factor(bad).build().unwrap_err(),
            "scaling_factor",
        );
        let capacity = Capacity::new(bad).policy(DropPolicy::Position);
        value(
            ok().capacity(capacity).build().unwrap_err(),
            "capacity factor",
        );
        let aux = Losses::new(bad, 0.0).aux_scale(AuxScale::PerToken);
        value(
            ok().losses(aux).build().unwrap_err(),
            "aux loss coefficient",
        );
        value(
            ok().losses(Losses::new(0.0, bad)).build().unwrap_err(),
            "z-loss coefficient",
        );
    }
    value(
        ok().scaling_factor(0.0).build().unwrap_err(),
        "scaling_factor",
    );
    ok().capacity(Capacity::new(0.0))
        .losses(Losses::new(0.0, 0.0))
        .build()
        .unwrap();

    // The last two are beyond f32.
    let clamped = |alpha, limit, offset| {
        ok().activation(Activation::ClampedSwiGlu {
            alpha,
            limit,
            offset,
        })
    };
    for bad in [f64::NAN, f64::INFINITY, 0.0, -1.0, 1e39, 1e-50] {
        value(
            clamped(bad, 7.0, 1.0).build().unwrap_err(),
            "alpha of ClampedSwiGlu",
        );
        value(
            clamped(1.0, bad, 1.0).build().unwrap_err(),
            "limit of ClampedSwiGlu",
        );
    }
    for bad in [f64::NAN, f64::INFINITY, -1e39] {
        value(
            clamped(1.0, 7.0, bad).build().unwrap_err(),
            "offset of ClampedSwiGlu",
        );
    }
    clamped(1.0, 7.0, -1.0).build().unwrap();

    for n in [0, 3, 16] {
        let error = groups(n, 1).build().unwrap_err();
        let expected = ConfigError::UnevenGroups {
            what: "groups",
            groups: n,
            num_experts: 8,
        };
        assert_eq!(error, expected);
        assert!(
            error
                .to_string()
                .contains(&format!("{n} groups cannot split 8 experts"))
        );
    }
    for (n, selected) in [(4, 0), (4, 5), (8, 1)] {
        let error = groups(n, selected).build().unwrap_err();
        let available = selected * 8 / n;
        let expected = ConfigError::GroupSelection {
            selected,
            groups: n,
            available,
            top_k: 2,
        };
        assert_eq!(error, expected);
    }
    groups(8, 2).build().unwrap();
    let error = groups(8, 2).score_function(Sigmoid).build().unwrap_err();
    assert_eq!(
        error,
        ConfigError::GroupOfOne {
            groups: 8,
            num_experts: 8
        }
    );
    groups(4, usize::MAX).build().unwrap_err();

    let dense = |granularity| MoeConfig::from_dense(8, 64, 8, 1, granularity);
    let error = dense(0).err().unwrap();
    assert_eq!(
        error,
        ConfigError::Zero {
            what: "granularity"
        }
    );
    let error = dense(7).err().unwrap();
    assert_eq!(
        error,
        ConfigError::Granularity {
            granularity: 7,
            d_ff: 64
        }
    );
    assert!(error.to_string().contains('7') && error.to_string().contains("64"));
    let error = MoeConfig::from_dense(8, 64, usize::MAX, 1, 8)
        .unwrap()
        .build()
        .unwrap_err();
    assert!(
        matches!(
            error,
            ConfigError::TooLarge {
                what: "num_experts",
                ..
            }
        ),
        "{error}"
    );

    // The layer's error carries the configuration's.
    assert_eq!(Error::from(error.clone()).to_string(), error.to_string());
}
