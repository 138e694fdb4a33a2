"""A bundle is shown for what it says, taken as a device would, and held field by field against its ledger."""

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import msgspec
import numpy as np
import pytest
import torch

from sottovoce.models import ranker
from sottovoce.models.bundle import pack, unpack
from sottovoce.models.manifest import File, load_manifest
from sottovoce.models.passport import SIMULATION, load_passport
from sottovoce.models.quantize import quantize
from sottovoce.models.request import random_requests
from sottovoce.models.rollout import Rollout
from sottovoce.models.schema import Feature, FeatureSchema
from sottovoce.models.signing import generate_key, key_id, save_public_key, sign
from sottovoce.models.trust import Trust
from sottovoce.privacy.audit import audit
from sottovoce.privacy.budget import Budget
from sottovoce.privacy.errors import DigestError, LedgerError
from sottovoce.privacy.ledger import Ledger
from sottovoce.privacy.plan import MechanismPlan
from sottovoce.server.checkpoint import Facts, encode
from sottovoce.server.gates import Gates
from sottovoce.server.release import release
from sottovoce.simulations import bundle_check
from sottovoce.simulations.bundle_check import check_ledger
from sottovoce.simulations.checkpoint_tables import require_made_from
from sottovoce.simulations.issuing import passport
from sottovoce.simulations.paid_weights import PaidWeights, paid_weights

torch.set_num_threads(1)

SCHEMA = FeatureSchema(
    features=(
        Feature(name="hour", source="context", kind="integer", buckets=4),
        Feature(name="ad", source="ad", kind="integer", buckets=40, in_history=True, privacy="public"),
    ),
    history_length=3,
)
CONFIG = ranker.RankerConfig(embedding_width=4, tower_width=4, hidden_width=8)
PLAN = MechanismPlan(100, 0.2, 0.5, 2.0, 3, 1e-3)
OTHER = MechanismPlan(100, 0.2, 0.5, 2.5, 3, 1e-3)
KEY = generate_key()


def checkpoint_of(weights):
    facts = Facts(run_id="run", round=3, plan_hash="", schema_digest=SCHEMA.digest(), ledger_length=8, ledger_hash="")
    state = {f"average/{name}": value * 0.5 for name, value in weights.items()}
    return encode(state | {"bias": torch.tensor(0.5, dtype=torch.float64)}, facts)


def drawn_weights():
    generator = torch.Generator().manual_seed(1)
    drawn = {n: torch.randn(s, generator=generator) * 0.4 for n, s in ranker.shapes(SCHEMA, CONFIG).items()}
    drawn["table"][0] = 0.0
    return drawn


WEIGHTS = drawn_weights()
FILE = checkpoint_of(WEIGHTS)  # written once: the order of its metadata is drawn anew each time
CHECKPOINT = sha256(FILE).hexdigest()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A ledger of three paid rounds and the bundle released on its strength."""
    folder = tmp_path_factory.mktemp("bundle")
    with Ledger.open(folder / "ledger.db", create=True) as ledger:
        budget = Budget(100.0, PLAN.delta, ledger)
        budget.register(PLAN, OTHER)
        for round in range(1, 4):
            ledger.commit(budget.reserve(PLAN, "run", round, "secure"), CHECKPOINT if round == 3 else f"{round:064x}")
    out = release(
        WEIGHTS,
        SCHEMA,
        CONFIG,
        passport(audit(folder / "ledger.db"), PLAN),
        random_requests(SCHEMA, 20, 12, np.random.default_rng(0)),
        [KEY],
        checkpoint_digest=CHECKPOINT,
        model_id="market",
        version=4,
        now=datetime.now(UTC),
        expires_days=30,
        notice="Apache-2.0",
        metrics={},
        gates=Gates(),
        sizes=(64,),
    )
    (folder / "bundle.svb").write_bytes(out.bundle)
    (folder / "round.safetensors").write_bytes(FILE)
    save_public_key(KEY.public_key(), folder / "key.pem")
    return folder


@pytest.fixture
def copied(made, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(made, tmp_path / "copy")


@pytest.fixture(scope="module")
def stated(made):
    return load_passport(unpack((made / "bundle.svb").read_bytes())["passport.json"])


def resigned(folder, passport_json=None, keys=(KEY,), **manifest):
    """The bundle with another passport or manifest, signed again by the key that devices trust."""
    files = dict(unpack((folder / "bundle.svb").read_bytes()))
    del files["model.sig"]
    old = load_manifest(files["manifest.json"])
    if passport_json is not None:
        digest = sha256(passport_json).hexdigest()
        files["passport.json"] = passport_json
        listed = {**old.files, "passport.json": File(sha256=digest, length=len(passport_json))}
        manifest |= {"passport_digest": digest, "files": listed}
    files["manifest.json"] = msgspec.structs.replace(old, **manifest).canonical()
    path = folder / "bundle.svb"
    path.write_bytes(pack(files | {"model.sig": sign(files, list(keys), "market")}))
    return path


def verifying(folder, *more):
    return ["bundle", "verify", folder / "bundle.svb", "--key", folder / "key.pem", *more]


def with_ledger(folder, *more):
    return verifying(folder, "--ledger", folder / "ledger.db", *more)


def refused(told, *words):
    code, _, err = told
    assert code == 1
    assert [line[:5] for line in err.splitlines()] == ["error", "  -> "], err
    for word in words:
        assert word in err, err


# show


def test_who_takes_a_bundle_and_how_many_must_have_signed_is_shown(call, copied):
    resigned(copied, rollout=Rollout(percent=2.5, salt="spring"), key_threshold=2)
    _, out, _ = call("bundle", "show", copied / "bundle.svb")
    assert "rollout: 2.5 % of devices, salt 'spring'" in out
    assert "keys that had to sign: 2" in out


def test_a_bundle_is_shown_in_plain_words_and_said_to_be_unverified_first(call, made, stated):
    code, out, err = call("bundle", "show", made / "bundle.svb")
    assert (code, err) == (0, "")
    assert out.startswith("not verified: no key given\n")
    for words in (
        "market version 4",
        "hour (context), ad (ad)",
        "model.tflite: ",
        "litert 1.2.0 or newer",
        key_id(KEY.public_key()),
        f"epsilon: {stated.epsilon:.4f} at delta 0.001 against an outsider",
        f"epsilon: {stated.epsilon_known_cohort:.4f} at the same delta against an observer who knows",
        "everything one device ever contributed",
        "zero_out",
        "poisson",
        "by PLD",
        "train 3",
        stated.ledger_head,
        "audit passed: every row of the ledger follows",
    ):
        assert words in out, words


def test_with_its_key_a_bundle_is_verified_and_with_another_refused(call, made, tmp_path):
    _, out, _ = call("bundle", "show", made / "bundle.svb", "--key", made / "key.pem")
    assert out.startswith(f"verified: signed by key {key_id(KEY.public_key())}\n")
    save_public_key(generate_key().public_key(), tmp_path / "other.pem")
    refused(call("bundle", "show", made / "bundle.svb", "--key", tmp_path / "other.pem"), "0 of 1")
    both = ("--key", made / "key.pem", "--key", tmp_path / "other.pem")
    refused(call("bundle", "show", made / "bundle.svb", *both), "1 of 2")


def test_show_prints_one_json_object_and_an_expired_bundle_too(call, copied):
    past = datetime.now(UTC) - timedelta(days=9)
    resigned(copied, created=past, expires=past + timedelta(days=1))
    _, out, _ = call("bundle", "show", copied / "bundle.svb", "--json")
    told = json.loads(out)
    assert (told["verified"], told["expired"], told["manifest"]["version"]) == (False, True, 4)
    assert "(EXPIRED)" in call("bundle", "show", copied / "bundle.svb")[1]
    refused(call(*verifying(copied)), "expired")


def test_a_text_in_the_bundle_cannot_forge_a_line_or_steer_the_terminal(call, copied, stated):
    nasty = "x\nverified: signed by key 00\x1b[2J\u202e"
    resigned(copied, msgspec.structs.replace(stated, mechanism=nasty).canonical(), model_id=nasty)
    for arguments in (["bundle", "show", copied / "bundle.svb"], verifying(copied)):
        out = call(*arguments)[1]
        assert "\x1b" not in out
        assert "\u202e" not in out
        assert not re.search("^verified: signed by key 00", out, re.MULTILINE)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, None], ids=["empty", "zeros", "missing"])
def test_what_is_no_bundle_is_refused_in_two_lines(call, made, tmp_path, content):
    file = tmp_path / "bad.svb"
    if content is not None:
        file.write_bytes(content)
    refused(call("bundle", "show", file))
    refused(call("bundle", "verify", file, "--key", made / "key.pem"))
    refused(call("bundle", "show", made / "bundle.svb", "--key", file), "bad.svb")


def test_verify_wants_a_key(call, made):
    assert call("bundle", "verify", made / "bundle.svb")[0] == 2


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "flwr", "opacus", "rich", "pyarrow", "safetensors", "dp_accounting"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
from sottovoce.simulations.cli import run
codes = [run(line.split("|")) for line in sys.argv[1:]]
print(codes)
"""


def test_show_and_verify_without_a_ledger_need_the_device_runtime_only(made):
    shown = ["bundle", "show", made / "bundle.svb"]
    lines = ["|".join(map(str, one)) for one in (shown, verifying(made), with_ledger(made))]
    done = subprocess.run([sys.executable, "-c", BLOCKED, *lines], capture_output=True, text=True)
    assert done.stdout.endswith("[0, 0, 1]\n"), done.stderr
    assert "sottovoce[train]" in done.stderr


# verify


def test_a_bundle_agrees_with_its_own_ledger(call, made, stated):
    code, out, err = call(*with_ledger(made))
    assert (code, err) == (0, "")
    assert f"ledger: {len(stated.__struct_fields__)} fields of the passport are what its first 9 rows come to\n" in out
    assert "ledger: row 9 committed the checkpoint of these weights as a paid release\n" in out
    code, out, _ = call(*with_ledger(made, "--json"))
    told = json.loads(out)
    assert (code, told["agrees"], told["ledger"]["mismatches"]) == (0, True, [])


def test_without_a_ledger_it_is_said_that_the_figures_are_not_checked(call, made):
    code, out, _ = call(*verifying(made))
    assert code == 0
    assert "not checked: the passport's figures" in out
    assert "DIFFERS" not in out


BENT = {
    "sampling": "none",
    "sampling_rate": 0.1,
    "population": 101,
    "mechanism": "discrete_gaussian",
    "noise_multiplier": 2.5,
    "clip_norm": 0.4,
    "rounds": 2,
    "releases": {"train": 2},
    "accountant": "RDP",
    "epsilon": 0.1,
    "epsilon_known_cohort": 50.0,
    "delta": 1e-4,
    "label": "perfectly safe",
    "observer": "knows_cohorts",
    "max_participations": 1,
    "audit": ("ledger_whole",),
    "plan_hash": "ab" * 32,
    "noise_source": "seeded",
}


@pytest.fixture
def audited_once(monkeypatch, made):
    """The audit of the ledger as it stands, made once: it depends on the ledger only, which these tests leave alone."""
    found = _audited.setdefault(made, audit(made / "ledger.db") if made not in _audited else None)
    monkeypatch.setattr(bundle_check, "audit_open", lambda _: found)


_audited = {}


@pytest.mark.usefixtures("audited_once")
@pytest.mark.parametrize("field", BENT)
def test_each_field_that_was_bent_is_named_alone_with_both_values(made, stated, field):
    label = {"label": SIMULATION} if field == "noise_source" else {}
    bent = msgspec.structs.replace(stated, **{field: BENT[field]}, **label)
    with Ledger.open_unchecked(made / "ledger.db") as ledger:
        found = check_ledger(bent, CHECKPOINT, ledger)
    paid = ["checkpoint_digest"] if field == "plan_hash" else []  # what was paid for was paid under the true plan
    assert [one.field for one in found.mismatches] == [field, *label, *paid]
    wrong = found.mismatches[0]
    assert json.loads(wrong.stated) == msgspec.to_builtins(BENT[field], str_keys=True) or field == "audit"
    assert json.loads(wrong.ledger) != json.loads(wrong.stated)
    assert field not in found.agreed


def test_every_field_of_the_passport_is_bent_somewhere(stated):
    fixed = {"unit", "adjacency"}  # one value only: another cannot be read
    assert set(stated.__struct_fields__) == set(BENT) | fixed | {"ledger_head", "ledger_length"}


@pytest.mark.parametrize("field", ["unit", "adjacency"])
def test_another_unit_or_adjacency_cannot_even_be_read(call, copied, stated, field):
    told = msgspec.to_builtins(stated) | {field: "record"}
    resigned(copied, json.dumps(told).encode())
    refused(call(*with_ledger(copied)), field)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ledger_head": "ab" * 32}, "ledger_head: the passport says abab"),
        ({"ledger_length": 8}, "ledger_length: the passport says 8, its ledger_head is row 9"),
        ({"ledger_length": 10}, "ledger_length: the passport says 10, the ledger has 9 rows: rolled back"),
    ],
    ids=str,
)
def test_a_passport_that_names_another_place_of_the_ledger_is_refused(made, stated, changes, named):
    with Ledger.open_unchecked(made / "ledger.db") as ledger, pytest.raises(LedgerError, match=re.escape(named)):
        check_ledger(msgspec.structs.replace(stated, **changes), CHECKPOINT, ledger)


def test_a_bent_passport_signed_again_ends_with_1_and_prints_both_values(call, copied, stated):
    resigned(copied, msgspec.structs.replace(stated, epsilon=0.125).canonical())
    told = call(*with_ledger(copied))
    refused(told, "do not agree on: epsilon")
    assert f"DIFFERS: epsilon: the passport says 0.125, the ledger {stated.epsilon}\n" in told[1]
    code, out, _ = call(*with_ledger(copied, "--json"))
    assert (code, json.loads(out)["agrees"]) == (1, False)
    assert call(*verifying(copied))[0] == 0  # a device cannot see it


def test_a_passport_without_a_guarantee_is_refused_though_its_signature_holds(call, copied, stated):
    resigned(copied, msgspec.structs.replace(stated, noise_source="seeded", label=SIMULATION).canonical())
    refused(call(*verifying(copied)), SIMULATION)


@pytest.mark.usefixtures("audited_once")
def test_an_older_passport_is_compared_in_what_it_says(made, stated):
    older = msgspec.to_builtins(stated)
    del older["audit"], older["plan_hash"]
    read = load_passport(json.dumps(older).encode())
    with Ledger.open_unchecked(made / "ledger.db") as ledger:
        found = check_ledger(read, CHECKPOINT, ledger)
    assert found.mismatches == ()
    assert {line.split(":")[0] for line in found.not_checked} == {"audit", "plan_hash"}


@pytest.mark.usefixtures("audited_once")
def test_what_the_signer_adds_to_the_claims_is_said_to_be_unchecked(made, stated):
    with Ledger.open_unchecked(made / "ledger.db") as ledger:
        bragging = msgspec.structs.replace(stated, label=stated.label + "; the moon is cheese")
        found = check_ledger(bragging, CHECKPOINT, ledger)
    assert found.mismatches == ()
    assert any("the moon is cheese" in line for line in found.not_checked)


def committed_later(folder):
    with Ledger.open(folder / "ledger.db") as ledger:
        budget = Budget(100.0, PLAN.delta, ledger)
        ledger.commit(budget.reserve(PLAN, "run", 4, "secure"), f"{4:064x}")
        ledger.commit(budget.reserve(OTHER, "run", 4, "secure"), f"{5:064x}")


@pytest.mark.parametrize(
    ("round", "says"),
    [(7, "knows no such release"), (4, "committed it in row 11, after the 9 rows of the passport")],
)
def test_weights_that_the_ledger_does_not_know_or_only_later_are_named(call, copied, round, says):
    committed_later(copied)
    resigned(copied, checkpoint_digest=f"{round:064x}")
    told = call(*with_ledger(copied))
    refused(told, "do not agree on: checkpoint_digest")
    assert f'DIFFERS: checkpoint_digest: the manifest says "{round:064x}", the ledger "{says}"\n' in told[1]
    assert "as a paid release" not in told[1]
    assert call(*verifying(copied))[0] == 0  # a device cannot see it


def test_weights_of_an_earlier_round_were_paid_for_too(call, copied):
    resigned(copied, checkpoint_digest=f"{1:064x}")
    assert "ledger: row 5 committed the checkpoint" in call(*with_ledger(copied))[1]


def test_what_was_paid_under_another_plan_or_for_a_measurement_is_no_model_of_this_passport(copied, stated):
    committed_later(copied)
    with Ledger.open(copied / "ledger.db") as ledger:
        seen = msgspec.structs.replace(stated, ledger_length=ledger.head().length)
        assert paid_weights(ledger, f"{4:064x}", seen) == PaidWeights(11)
        assert f"under plan {OTHER.digest()}" in paid_weights(ledger, f"{5:064x}", seen).fault
        asked = ledger.reserve("count", 1, PLAN.event(), "ab" * 32, "metric", "secure")
        ledger.commit(asked, f"{6:064x}")
        seen = msgspec.structs.replace(seen, ledger_length=ledger.head().length)
        assert "as a release of metric" in paid_weights(ledger, f"{6:064x}", seen).fault


def test_a_reservation_that_was_never_committed_is_no_release(copied, stated):
    with Ledger.open(copied / "ledger.db") as ledger:
        Budget(100.0, PLAN.delta, ledger).reserve(PLAN, "run", 5, "secure")
        seen = msgspec.structs.replace(stated, ledger_length=ledger.head().length)
        assert paid_weights(ledger, f"{8:064x}", seen).fault == "knows no such release"


def test_the_checkpoint_at_hand_is_quantized_again_and_must_give_the_same_tables(call, made, tmp_path):
    code, out, err = call(*with_ledger(made, "--checkpoint", made / "round.safetensors"))
    assert (code, err) == (0, "")
    assert "holds: 11 tables are what the weights of round.safetensors quantize to" in out
    assert "not checked" not in out
    assert "not checked: that the files hold the weights of the checkpoint" in call(*with_ledger(made))[1]
    nudged = WEIGHTS | {"head.bias": WEIGHTS["head.bias"] + 1e-6}
    (tmp_path / "other.safetensors").write_bytes(checkpoint_of(nudged))
    refused(call(*verifying(made, "--checkpoint", tmp_path / "other.safetensors")), "checkpoint_digest", CHECKPOINT)
    refused(call(*verifying(made, "--checkpoint", tmp_path / "none.safetensors")), "none.safetensors")


@pytest.fixture(scope="module")
def taken(made):
    data = (made / "bundle.svb").read_bytes()
    return Trust((KEY.public_key(),)).accept(data, now=datetime.now(UTC), runtimes={"litert": "9"})[1]


def naming(bundle, checkpoint):
    digest = sha256(checkpoint).hexdigest()
    return replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, checkpoint_digest=digest))


@pytest.mark.parametrize("name", ["table", "head.bias", "cross.0.weight"])
def test_a_bundle_that_names_a_checkpoint_of_other_weights_is_refused_by_the_table(taken, name):
    other = WEIGHTS | {name: WEIGHTS[name] * 1.05}
    told = "codes|exact" if name == "table" else name.replace(".", "_")
    file = checkpoint_of(other)
    with pytest.raises(DigestError, match=f"does not hold the weights of r: .*({told})"):
        require_made_from(naming(taken, file), file, "r")


def test_a_checkpoint_of_another_size_or_of_no_ranker_is_refused(taken):
    linear = {"table": WEIGHTS["table"][:, :1].contiguous(), "head.bias": WEIGHTS["head.bias"]}
    fewer = {name: value for name, value in WEIGHTS.items() if not name.startswith("cross")}
    for weights in (linear, fewer, {"own": WEIGHTS["table"]}, WEIGHTS | {"table": WEIGHTS["table"][:-1].contiguous()}):
        file = checkpoint_of(weights)
        with pytest.raises(DigestError):
            require_made_from(naming(taken, file), file, "r")


def test_a_second_model_file_with_other_codes_is_found_out_by_its_scores(taken):
    codes = quantize(WEIGHTS, SCHEMA, CONFIG).codes.numpy()
    other = codes.copy()
    other[5, 0] ^= 8
    assert taken.tflite.count(codes.tobytes()) == 1
    swapped = replace(taken, tflite=taken.tflite.replace(codes.tobytes(), other.tobytes()))
    with pytest.raises(DigestError, match=r"model\.tflite does not score as the weights of r"):
        require_made_from(swapped, FILE, "r")


def test_later_rows_are_all_right_and_are_said(call, copied):
    with Ledger.open(copied / "ledger.db") as ledger:
        Budget(100.0, PLAN.delta, ledger).reserve(OTHER, "later", 1, "seeded")
    code, out, _ = call(*with_ledger(copied))
    assert code == 0
    assert "come to; 1 rows were appended later" in out


def test_a_ledger_rolled_back_is_refused(call, copied):
    rewrite(copied / "ledger.db", "DELETE FROM entries WHERE seq > 7")
    refused(call(*with_ledger(copied)), "rows were cut off")


def test_a_ledger_with_one_row_edited_is_refused(call, copied):
    data = (copied / "ledger.db").read_bytes()
    assert data.count(b'"round":2') == 1
    (copied / "ledger.db").write_bytes(data.replace(b'"round":2', b'"round":9'))
    refused(call(*with_ledger(copied)), "not what was hashed")


def test_an_older_copy_and_another_ledger_are_refused(call, copied):
    for rounds in (1, 3):
        other = copied / f"{rounds}.db"
        with Ledger.open(other, create=True) as ledger:
            budget = Budget(100.0, PLAN.delta, ledger)
            budget.register(PLAN, OTHER)
            for round in range(1, rounds + 1):
                ledger.commit(budget.reserve(PLAN, "other", round, "secure"), f"{round:064x}")
        named = "rolled back" if rounds == 1 else "another ledger, or rewritten"
        refused(call(*verifying(copied, "--ledger", other)), named)
    refused(call(*verifying(copied, "--ledger", copied / "no.db")), "no.db")


def rewrite(path, statement):
    """Change a ledger behind its back, past the triggers that refuse it."""
    with sqlite3.connect(path) as db:
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
        db.execute(statement)
    db.close()
