resource "google_bigquery_dataset" "this" {
  #checkov:skip=CKV_GCP_81:Google's own keys do; no secret is in it

  count = var.bigquery.enabled ? 1 : 0

  project     = var.project_id
  dataset_id  = replace(var.name, "-", "_")
  location    = coalesce(var.bigquery.location, var.region)
  description = "What jobs ran where, for how long, and what they cost"
  labels      = var.labels

  depends_on = [google_project_service.this]
}

resource "google_bigquery_table" "jobs" {
  #checkov:skip=CKV_GCP_80:Google's own keys do; no secret is in it

  count = var.bigquery.enabled ? 1 : 0

  project             = var.project_id
  dataset_id          = google_bigquery_dataset.this[0].dataset_id
  table_id            = "jobs"
  description         = "One row for each completed job"
  schema              = file("${path.module}/bigquery-jobs.json")
  clustering          = ["org", "repository", "profile"]
  labels              = var.labels
  deletion_protection = true

  time_partitioning {
    type          = "DAY"
    field         = "completed_at"
    expiration_ms = var.bigquery.keep_days == 0 ? null : var.bigquery.keep_days * 86400000
  }
}

# Only the one function that exports, and only this table.
resource "google_bigquery_table_iam_member" "reconcile" {
  count = var.bigquery.enabled ? 1 : 0

  project    = var.project_id
  dataset_id = google_bigquery_table.jobs[0].dataset_id
  table_id   = google_bigquery_table.jobs[0].table_id
  role       = "roles/bigquery.dataEditor"
  member     = google_service_account.this["reconcile"].member
}
