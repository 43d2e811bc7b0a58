locals {
  accounts = {
    webhook   = "Runyard: receives webhooks"
    route     = "Runyard: answers workflows"
    reconcile = "Runyard: finds what was lost"
    commands  = "Runyard: does what controllers ask for"
    trigger   = "Runyard: brings events to commands, and may do nothing else"
    scheduler = "Runyard: starts reconcile, and may do nothing else"
    build     = "Runyard: builds the functions"
    host      = "Runyard: controllers on Docker hosts, without access to GitHub"
  }

  # Everybody who reads and writes documents. Firestore's IAM knows databases, not collections.
  document_users = ["webhook", "route", "commands", "reconcile", "host"]
  own_database   = "resource.name == \"projects/${var.project_id}/databases/${var.firestore.database}\""

  # Which function reads which secret.
  secret_users = merge([
    for function, definition in local.functions : {
      for secret in distinct([for _, source in definition.secrets : source.secret]) :
      "${function} ${secret}" => { account = function, secret = secret }
    }
  ]...)
}

resource "google_service_account" "this" {
  for_each = local.accounts

  project      = var.project_id
  account_id   = "${var.name}-${each.key}"
  display_name = each.value

  depends_on = [google_project_service.this]
}

# roles/datastore.user could also read indexes and statistics, and open transactions on any database.
resource "google_project_iam_custom_role" "documents" {
  project     = var.project_id
  role_id     = "${replace(var.name, "-", "_")}_documents"
  title       = "${var.name}: documents"
  description = "Reads, writes and listens to documents"
  permissions = [
    "datastore.databases.get",
    "datastore.entities.create",
    "datastore.entities.delete",
    "datastore.entities.get",
    "datastore.entities.list",
    "datastore.entities.update",
  ]
}

resource "google_project_iam_member" "documents" {
  for_each = toset(local.document_users)

  project = var.project_id
  role    = google_project_iam_custom_role.documents.id
  member  = google_service_account.this[each.key].member

  condition {
    title      = "${var.name}: its own database"
    expression = local.own_database
  }
}

resource "google_secret_manager_secret_iam_member" "this" {
  for_each = local.secret_users

  project   = var.project_id
  secret_id = google_secret_manager_secret.this[each.value.secret].secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.this[each.value.account].member
}

# GitHub and workflows sign what they send, and the scheduler its token; the functions check that themselves. Where only
# some may start a function, Cloud Run takes the signature off their tokens. reconcile is not to be reached from outside
# all the same: see its ingress.
resource "google_cloud_run_v2_service_iam_member" "everybody" {
  for_each = local.has_secrets ? toset(["webhook", "route", "reconcile"]) : toset([])

  project  = var.project_id
  location = var.region
  name     = google_cloudfunctions2_function.this[each.key].name
  role     = "roles/run.invoker"
  member   = "allUsers"
}

# Who starts the function that nobody else may start.
resource "google_cloud_run_v2_service_iam_member" "starters" {
  for_each = local.has_secrets ? { commands = "trigger" } : {}

  project  = var.project_id
  location = var.region
  name     = google_cloudfunctions2_function.this[each.key].name
  role     = "roles/run.invoker"
  member   = google_service_account.this[each.value].member
}

resource "google_project_iam_member" "trigger" {
  project = var.project_id
  role    = "roles/eventarc.eventReceiver"
  member  = google_service_account.this["trigger"].member
}

# What a build needs: to log, to fetch the source, to store the image.
resource "google_project_iam_member" "build_logs" {
  project = var.project_id
  role    = "roles/logging.logWriter"
  member  = google_service_account.this["build"].member
}

resource "google_project_iam_member" "build_source" {
  project = var.project_id
  role    = "roles/storage.objectViewer"
  member  = google_service_account.this["build"].member

  # Cloud Functions copies the archive into a bucket of its own before it builds.
  condition {
    title      = "${var.name}: sources of functions"
    expression = "resource.name.startsWith(\"projects/_/buckets/gcf-v2-sources-\")"
  }
}

resource "google_artifact_registry_repository_iam_member" "build" {
  project    = var.project_id
  location   = var.region
  repository = google_artifact_registry_repository.functions.repository_id
  role       = "roles/artifactregistry.writer"
  member     = google_service_account.this["build"].member
}
