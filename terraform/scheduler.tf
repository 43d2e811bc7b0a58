resource "google_cloud_scheduler_job" "reconcile" {
  count = local.has_secrets ? 1 : 0

  project          = var.project_id
  region           = var.region
  name             = "${var.name}-reconcile"
  description      = "Finds what was lost and finishes what was half done"
  schedule         = var.reconcile.schedule
  time_zone        = "Etc/UTC"
  attempt_deadline = "300s"

  # The next run makes up for one that failed.
  retry_config {
    retry_count = 0
  }

  http_target {
    http_method = "POST"
    uri         = google_cloudfunctions2_function.this["reconcile"].service_config[0].uri

    oidc_token {
      service_account_email = google_service_account.this["scheduler"].email
      audience              = local.urls["reconcile"]
    }
  }

  depends_on = [google_cloud_run_v2_service_iam_member.starters]
}
