"""The configuration as Terraform understands it: valid, and of it comes what is promised."""

import ast
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.auth import identity_pool

from controller.settings import read_settings
from functions.documents import command
from local.archive import BUILD_ENVIRONMENT, targets
from tests.terraform.conftest import ROOT, Applied, Configuration

Configure = Callable[[str], Configuration]
SMALL: dict[str, Any] = {"project_id": "acme-ci", "token_version": "1", "webhook_secret_versions": ["1"]}
PRODUCTION: dict[str, Any] = {
    "project_id": "acme-ci",
    "github_app_id": "12345",
    "github_app_key_version": "3",
    "webhook_secret_versions": ["2", "1"],
    "notification_channels": ["projects/acme-ci/notificationChannels/1"],
    "certificate_authority": "-----BEGIN CERTIFICATE-----",
}
HOSTS = {"default": {"machine_type": "n2-standard-16", "hosts": 3}}


@pytest.fixture(scope="module")
def small(configure: Configure, files: dict[str, str]) -> Applied:
    return configure("examples/small").apply(**SMALL, archive=files["archive"])


@pytest.fixture(scope="module")
def production(configure: Configure, files: dict[str, str]) -> Applied:
    return configure("examples/production").apply(**PRODUCTION, **files)


@pytest.fixture(scope="module")
def module(configure: Configure) -> Configuration:
    return configure(".")


# That Terraform accepts it


@pytest.mark.parametrize(
    "folder", [".", "modules/docker-hosts", "modules/own-machines", "examples/small", "examples/production"]
)
def test_terraform_finds_it_valid(configure: Configure, folder: str) -> None:
    assert configure(folder).validate() == ""


def test_it_is_formatted_as_terraform_does(module: Configuration) -> None:
    (module.folder / "backend_override.tf").unlink(missing_ok=True)
    assert module.run("fmt", "-check", "-recursive").stdout == ""


@pytest.mark.parametrize(
    ("addition", "complaint"),
    [
        ('resource "google_storage_bucket" "b" {\n name = "b"\n location = "EU"\n colour = "red"\n}', "colour"),
        ('resource "google_storage_bucket" "b" {\n name = "b"\n}', '"location" is required'),
        ('resource "google_storage_bucket" "b" {\n name = "b"\n location = "EU"\n version {\n}\n}', "version"),
        ('output "b" {\n value = google_service_account.this["host"].mail\n}', "Did you mean"),
        ('resource "google_storage_buckets" "b" {\n}', "google_storage_buckets"),
        (
            'resource "google_compute_firewall" "b" {\n name = "b"\n network = "n"\n direction = "INWARDS"\n}',
            "expected one of INGRESS, EGRESS",
        ),
    ],
    ids=["unknown argument", "missing argument", "unknown block", "unknown attribute", "unknown type", "wrong value"],
)
def test_a_mistake_against_the_providers_schema_is_found(configure: Configure, addition: str, complaint: str) -> None:
    """The provider stands in for Google's: what it lets through must mean something."""
    configuration = configure(".")
    (configuration.folder / "mistake.tf").write_text(addition)
    assert complaint in configuration.validate()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"project_id": "Acme CI"}, "is no project id"),
        ({"project_id": "123456789"}, "is no project id"),
        ({"region": "europe-west1-b"}, "A zone (europe-west1-b) or a multi-region"),
        ({"name": "Runyard"}, "write 3 to 18 lower-case letters"),
        ({"name": "a-name-that-is-too-long"}, "Service accounts take 30 characters"),
        ({"archive": "functions.zip"}, "was not made by make archive"),
        ({"archive": "dist/functions-0123456789abcdef.zip"}, "is not there: run make archive"),
        ({"runtime": "python310"}, "needs python311 or newer"),
        ({"github": {"app_id": "1", "token_version": "1"}}, "Remove one"),
        ({"github": {"app_key_version": "1"}}, "Give the App's id"),
        ({"github": {"token_version": "latest"}}, "nobody could say which one"),
        ({"github": {"api_url": "http://ghe.acme.example/api/v3"}}, "start with https://"),
        ({"webhook_secret_versions": ["3", "2", "1"]}, "at most two count at a time"),
        ({"webhook_secret_versions": ["latest"]}, 'a version is a number such as "1"'),
        ({"webhook_secret_versions": ["1", "1"]}, "stands there twice"),
        ({"firestore": {"database": "Default"}}, "write (default), or"),
        ({"firestore": {"backup_days": 365}}, "at most 14 weeks"),
        ({"webhook": {"min_instances": 3}}, "0 <= min_instances <= max_instances"),
        ({"webhook": {"max_instances": 100}}, "fight for the ledger"),
        ({"webhook": {"cpu": "0.5"}}, "needs at least 1 CPU"),
        ({"webhook": {"memory": "512"}}, "such as 512M or 1Gi"),
        ({"route": {"audience": " "}}, "any workflow's token would do"),
        ({"reconcile": {"schedule": "every minute"}}, "the five fields of cron"),
        ({"reconcile": {"grace_s": 0}}, "from 1 to 86400"),
        ({"monitoring": {"notification_channels": ["me@acme.example"]}}, "gcloud beta monitoring channels list"),
        ({"bigquery": {"keep_days": -1}}, "0 for ever"),
        ({"docker_hosts": HOSTS, "controller_wheel": None}, "give controller_wheel"),
        ({"docker_hosts": {"Large": HOSTS["default"]}}, "as in the policy"),
        ({"docker_hosts": {"default": HOSTS["default"] | {"disk_gb": 10}}}, "give at least 50"),
        ({"docker_hosts": {"default": HOSTS["default"] | {"zones": ["us-east1-b"]}}}, "do not all belong to region"),
        ({"docker_hosts": {"default": HOSTS["default"] | {"runner_range": "10.0.0.0/28"}}}, "/26 or larger"),
        ({"controller_wheel": "runyard.tar.gz"}, "pip wheel --no-deps"),
        ({"own_machines": {"hosts": ["a"]}}, "Give one of oidc"),
        ({"own_machines": {"hosts": ["a'b"], "x509": {"trust_anchors": ["PEM"]}}}, "without spaces, quotes"),
        ({"own_machines": {"hosts": ["a"], "oidc": {"issuer_uri": "idp"}}}, "must start with https://"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_wrong_variable_is_refused_with_what_to_write(
    module: Configuration, files: dict[str, str], changes: dict[str, Any], told: str
) -> None:
    good = {"project_id": "acme-ci", "region": "europe-west1", "github": {}} | files
    assert told in module.plan(**good | changes)


def test_with_good_variables_there_is_nothing_to_complain_of(module: Configuration, files: dict[str, str]) -> None:
    """Otherwise the test before would prove nothing."""
    good = {"project_id": "acme-ci", "region": "europe-west1", "github": {}, "docker_hosts": HOSTS}
    assert module.plan(**good, **files) == ""


# The functions


def service(applied: Applied, function: str) -> dict[str, Any]:
    [config] = applied.of_type("google_cloudfunctions2_function")[f'this["{function}"]']["service_config"]
    assert isinstance(config, dict)
    return config


def variables(applied: Applied, function: str) -> set[str]:
    """Names of the environment variables that a function is given."""
    config = service(applied, function)
    return set(config["environment_variables"]) | {secret["key"] for secret in config["secret_environment_variables"]}


def variables_read() -> set[str]:
    """Names that functions/settings.py asks the environment for."""
    tree = ast.parse((ROOT / "functions" / "settings.py").read_text())
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {word for word in words if re.fullmatch(r"[A-Z]+(_[A-Z]+)+", word)}


def test_the_functions_are_told_exactly_what_their_settings_read(small: Applied, production: Applied) -> None:
    told = {
        name
        for applied in (small, production)
        for function in ("webhook", "route", "commands", "reconcile")
        for name in variables(applied, function)
    }
    # The target is set by Google; the issuer of the scheduler's tokens is another one in tests only.
    of_others = {"FUNCTION_TARGET", "RECONCILE_ISSUER"}
    read = variables_read() - of_others
    assert read - told == set()
    assert told - read == {"FUNCTION_USE_ASGI"}


def test_each_function_is_deployed_under_a_target_of_main(production: Applied) -> None:
    functions = production.of_type("google_cloudfunctions2_function").values()
    deployed = {function["build_config"][0]["entry_point"] for function in functions if not function["event_trigger"]}
    assert deployed == set(targets("http"))
    triggered = {function["build_config"][0]["entry_point"] for function in functions if function["event_trigger"]}
    assert triggered == set(targets("cloud_event"))


def test_the_functions_are_built_so_that_their_compiled_files_count(production: Applied) -> None:
    for function in production.of_type("google_cloudfunctions2_function").values():
        assert function["build_config"][0]["environment_variables"] == BUILD_ENVIRONMENT


def test_the_archive_is_uploaded_under_its_own_name(production: Applied, files: dict[str, str]) -> None:
    uploaded = production.of_type("google_storage_bucket_object")["functions"]
    assert uploaded["name"] == Path(files["archive"]).name
    for function in production.of_type("google_cloudfunctions2_function").values():
        [source] = function["build_config"][0]["source"]
        assert source["storage_source"][0]["object"] == uploaded["name"]


def test_few_large_instances_take_many_webhooks_at_once(small: Applied, production: Applied) -> None:
    config = service(production, "webhook")
    assert config["max_instance_request_concurrency"] == 80
    assert float(config["available_cpu"]) >= 1
    assert (config["min_instance_count"], config["max_instance_count"]) == (1, 3)
    assert (service(small, "webhook")["min_instance_count"], service(small, "webhook")["max_instance_count"]) == (0, 2)


def test_only_what_github_calls_is_open_to_the_internet(production: Applied) -> None:
    assert {service(production, name)["ingress_settings"] for name in ("commands", "reconcile")} == {
        "ALLOW_INTERNAL_ONLY"
    }
    assert {service(production, name)["ingress_settings"] for name in ("webhook", "route")} == {"ALLOW_ALL"}


def test_the_scheduler_signs_in_as_reconcile_expects(production: Applied) -> None:
    job = production.only("google_cloud_scheduler_job")
    [token] = job["http_target"][0]["oidc_token"]
    told = service(production, "reconcile")["environment_variables"]
    assert token["service_account_email"] == told["RECONCILE_CALLER"]
    assert token["audience"] == told["RECONCILE_AUDIENCE"]
    assert told["GITHUB_WEBHOOK_URL"] == production.outputs["webhook_url"]


def test_new_commands_start_the_function_that_does_them(production: Applied) -> None:
    [trigger] = production.of_type("google_cloudfunctions2_function")['this["commands"]']["event_trigger"]
    [database] = [filter_ for filter_ in trigger["event_filters"] if filter_["attribute"] == "database"]
    [document] = [filter_ for filter_ in trigger["event_filters"] if filter_["attribute"] == "document"]
    assert database["value"] == "(default)"
    assert (document["operator"], document["value"]) == ("match-path-pattern", f"{command.COLLECTION}/{{id}}")
    assert trigger["event_type"] == "google.cloud.firestore.document.v1.created"
    assert trigger["retry_policy"] == "RETRY_POLICY_RETRY"
    assert trigger["trigger_region"] == "eur3", "events of a database are to be had where it is"


# Secrets


def test_two_versions_of_the_webhook_secret_count_while_it_is_rotated(production: Applied) -> None:
    secrets = {
        secret["key"]: secret["version"] for secret in service(production, "webhook")["secret_environment_variables"]
    }
    assert secrets == {
        "GITHUB_WEBHOOK_SECRET": "2",
        "GITHUB_WEBHOOK_SECRET_PREVIOUS": "1",
        "GITHUB_APP_PRIVATE_KEY": "3",
    }


def test_the_webhook_secret_is_for_the_webhook_function_alone(production: Applied) -> None:
    for function in ("route", "commands", "reconcile"):
        keys = [secret["key"] for secret in service(production, function)["secret_environment_variables"]]
        assert keys == ["GITHUB_APP_PRIVATE_KEY"]


def test_terraform_never_learns_a_secrets_value(production: Applied) -> None:
    assert production.of_type("google_secret_manager_secret")
    assert not production.of_type("google_secret_manager_secret_version")


def test_without_secrets_nothing_is_deployed_and_the_next_step_is_told(
    configure: Configure, files: dict[str, str]
) -> None:
    first = configure("examples/small").apply(project_id="acme-ci", archive=files["archive"])
    assert not first.of_type("google_cloudfunctions2_function")
    assert not first.of_type("google_cloud_scheduler_job")
    assert set(first.of_type("google_secret_manager_secret")) == {'this["webhook-secret"]', 'this["github-token"]'}
    assert "gcloud secrets versions add runyard-webhook-secret" in first.outputs["next_step"]
    assert 'token_version = "1"' in first.outputs["next_step"]


# Documents


def test_the_database_cannot_be_deleted_by_accident_and_can_be_wound_back(production: Applied) -> None:
    database = production.only("google_firestore_database")
    assert database["delete_protection_state"] == "DELETE_PROTECTION_ENABLED"
    assert database["point_in_time_recovery_enablement"] == "POINT_IN_TIME_RECOVERY_ENABLED"
    assert database["deletion_policy"] == "ABANDON"
    backups = production.only("google_firestore_backup_schedule")
    assert backups["retention"] == f"{14 * 86400}s"


def test_the_indexes_are_those_that_the_emulator_is_given(production: Applied) -> None:
    wanted = json.loads((ROOT / "terraform" / "firestore.indexes.json").read_text())
    indexes = [
        {
            "collectionGroup": index["collection"],
            "queryScope": index["query_scope"],
            "fields": [{"fieldPath": field["field_path"], "order": field["order"]} for field in index["fields"]],
        }
        for index in production.of_type("google_firestore_index").values()
    ]
    overrides = [
        {
            "collectionGroup": field["collection"],
            "fieldPath": field["field"],
            "indexes": field["index_config"][0]["indexes"],
        }
        | ({"ttl": True} if field["ttl_config"] else {})
        for field in production.of_type("google_firestore_field").values()
    ]
    assert as_set(indexes) == as_set(wanted["indexes"])
    assert as_set(overrides) == as_set(wanted["fieldOverrides"])


def as_set(values: list[dict[str, Any]]) -> set[str]:
    return {json.dumps(value, sort_keys=True) for value in values}


def test_the_rules_that_let_nobody_in_are_released(production: Applied) -> None:
    rules = production.only("google_firebaserules_ruleset")
    assert rules["source"][0]["files"][0]["content"] == (ROOT / "terraform" / "firestore.rules").read_text()
    release = production.only("google_firebaserules_release")
    assert release["name"] == "cloud.firestore"


# Who may do what


def grants(applied: Applied) -> set[tuple[str, str, str]]:
    """Everybody's roles: account, role, what on."""
    keys = ("secret_id", "bucket", "repository", "table_id", "name")
    found = set()
    for resource in applied.resources.values():
        if resource["type"].endswith("_iam_member"):
            values = resource["values"]
            on = next((values[key] for key in keys if values.get(key)), "project")
            found.add((values["member"], values["role"], f"{on} if" if values["condition"] else on))
    return found


def test_everybody_may_do_what_they_must_and_nothing_else(production: Applied) -> None:
    documents = ("runyard_documents/id", "project if")
    key = ("roles/secretmanager.secretAccessor", "runyard-github-app-key")
    secret = ("roles/secretmanager.secretAccessor", "runyard-webhook-secret")
    expected = {
        "allUsers": {("roles/run.invoker", f"runyard-{name}") for name in ("webhook", "route", "reconcile")},
        "runyard-webhook/member": {documents, key, secret},
        "runyard-route/member": {documents, key},
        "runyard-commands/member": {documents, key},
        "runyard-trigger/member": {
            ("roles/eventarc.eventReceiver", "project"),
            ("roles/run.invoker", "runyard-commands"),
        },
        "runyard-reconcile/member": {documents, key, ("roles/bigquery.dataEditor", "jobs")},
        "runyard-build/member": {
            ("roles/logging.logWriter", "project"),
            ("roles/storage.objectViewer", "project if"),
            ("roles/artifactregistry.writer", "runyard-functions"),
        },
        "runyard-host/member": {documents, ("roles/storage.objectViewer", "acme-ci-runyard-archives if")},
    }
    for host in ("builder-1.corp.example", "builder-2.corp.example"):
        expected[f"principal://iam.googleapis.com/runyard-hosts/name/subject/{host}"] = {documents}
    assert grants(production) == {(who, *grant) for who, all_of_them in expected.items() for grant in all_of_them}


def test_documents_can_be_used_in_our_database_alone(production: Applied) -> None:
    role = production.only("google_project_iam_custom_role")
    assert {permission.rpartition(".")[0] for permission in role["permissions"]} == {
        "datastore.entities",
        "datastore.databases",
    }
    conditions = [
        values["condition"][0]["expression"]
        for values in production.of_type("google_project_iam_member").values()
        if values["role"] == "runyard_documents/id"
    ]
    assert set(conditions) == {'resource.name == "projects/acme-ci/databases/(default)"'}


# Docker hosts


def start_script(applied: Applied) -> str:
    templates = applied.of_type("google_compute_instance_template")
    script = templates['module.docker_hosts["default"].this']["metadata"]["startup-script"]
    assert isinstance(script, str)
    return script


def test_a_docker_host_starts_with_a_script_and_settings_that_are_understood(
    production: Applied, tmp_path: Path
) -> None:
    script = start_script(production)
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)
    config = re.search(r"config\.yaml <<'CONFIG'\n(.*?)\nCONFIG\n", script, re.DOTALL)
    assert config is not None
    (tmp_path / "config.yaml").write_text(config[1])
    settings = read_settings(tmp_path / "config.yaml", {})
    assert (settings.project, settings.database, settings.pool) == ("acme-ci", "(default)", "default")
    assert str(settings.network.range) == "10.213.0.0/16"


def test_the_controllers_service_leaves_the_proxy_alone_when_it_ends(production: Applied) -> None:
    script = start_script(production)
    assert "ExecStart=/opt/runyard/bin/runyard run --config /etc/runyard/config.yaml" in script
    assert "KillMode=process" in script
    assert '"live-restore": true' in script


def test_a_docker_host_cannot_be_reached_and_starts_only_what_is_signed(production: Applied) -> None:
    for template in production.of_type("google_compute_instance_template").values():
        [interface] = template["network_interface"]
        assert interface["access_config"] == []
        [shield] = template["shielded_instance_config"]
        assert all(shield.values())
        assert template["service_account"][0]["email"] == "runyard-host/email"
    firewall = production.only("google_compute_firewall")
    assert (firewall["source_ranges"], firewall["allow"][0]["ports"]) == (["35.235.240.0/20"], ["22"])


def test_a_docker_host_is_never_replaced_under_its_jobs(production: Applied) -> None:
    groups = production.of_type("google_compute_region_instance_group_manager")
    assert {group["target_size"] for group in groups.values()} == {3, 1}
    assert {group["update_policy"][0]["type"] for group in groups.values()} == {"OPPORTUNISTIC"}


def test_a_given_subnetwork_is_used_and_none_is_made(module: Configuration, files: dict[str, str]) -> None:
    hosts = {"default": HOSTS["default"] | {"subnetwork": "projects/acme-net/regions/europe-west1/subnetworks/ci"}}
    applied = module.apply(project_id="acme-ci", region="europe-west1", github={}, docker_hosts=hosts, **files)
    assert not applied.of_type("google_compute_network")
    template = applied.only("google_compute_instance_template")
    assert template["network_interface"][0]["subnetwork"].endswith("subnetworks/ci")


def test_own_machines_sign_in_with_what_googles_library_reads(
    production: Applied, configure: Configure, files: dict[str, str]
) -> None:
    hosts = {"hosts": ["host-1"], "oidc": {"issuer_uri": "https://idp.acme.example"}}
    by_token = configure(".").apply(
        project_id="acme-ci", region="europe-west1", github={}, own_machines=hosts, archive=files["archive"]
    )
    told = json.loads(by_token.outputs["own_machines_credentials"])
    assert isinstance(identity_pool.Credentials.from_info(told), identity_pool.Credentials)  # type: ignore[no-untyped-call]
    # The library opens the certificate at once, so that of the other way only the form is compared.
    by_certificate = json.loads(production.outputs["own_machines_credentials"])
    assert by_certificate.keys() == told.keys()
    assert by_certificate["audience"] == told["audience"] == "//iam.googleapis.com/hosts/name"
    provider = production.only("google_iam_workload_identity_pool_provider")
    assert provider["attribute_condition"] == ("google.subject in ['builder-1.corp.example', 'builder-2.corp.example']")


# Watching it


def test_whoever_is_named_hears_of_every_alert(production: Applied) -> None:
    alerts = production.of_type("google_monitoring_alert_policy").values()
    assert len(alerts) == 6
    for alert in alerts:
        assert alert["notification_channels"] == PRODUCTION["notification_channels"]
        assert len(alert["documentation"][0]["content"]) > 80, "an alert says what to do"


def test_alerts_watch_metrics_that_there_are(production: Applied) -> None:
    metrics = {metric["name"] for metric in production.of_type("google_logging_metric").values()}
    alerts = json.dumps(list(production.of_type("google_monitoring_alert_policy").values())).replace("\\", "")
    assert set(re.findall(r'logging\.googleapis\.com/user/([^"]+)', alerts)) == metrics


def test_the_table_of_jobs_has_a_schema_that_bigquery_reads(production: Applied) -> None:
    table = production.only("google_bigquery_table")
    columns = {column["name"]: column for column in json.loads(table["schema"])}
    assert columns[table["time_partitioning"][0]["field"]]["type"] == "TIMESTAMP"
    assert set(table["clustering"]) <= set(columns)
    assert {column["type"] for column in columns.values()} <= {"STRING", "INTEGER", "FLOAT", "NUMERIC", "TIMESTAMP"}
    assert {column.get("mode", "NULLABLE") for column in columns.values()} == {"REQUIRED", "NULLABLE", "REPEATED"}


def test_a_trial_costs_nothing_while_it_is_idle(small: Applied) -> None:
    assert service(small, "webhook")["min_instance_count"] == 0
    assert not small.of_type("google_compute_instance_template")
    assert not small.of_type("google_bigquery_table")
    assert not small.of_type("google_monitoring_uptime_check_config")
