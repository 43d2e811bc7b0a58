# The functions write one line of JSON for each request. These metrics count those lines.

resource "google_logging_metric" "webhooks" {
  project     = var.project_id
  name        = "${var.name}/webhooks"
  description = "Webhooks by outcome and status"
  filter      = "${local.lines} jsonPayload.message=\"webhook\""

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"
    labels {
      key        = "outcome"
      value_type = "STRING"
    }
    labels {
      key        = "status"
      value_type = "INT64"
    }
  }

  label_extractors = {
    outcome = "EXTRACT(jsonPayload.outcome)"
    status  = "EXTRACT(jsonPayload.status)"
  }

  depends_on = [google_project_service.this]
}

resource "google_logging_metric" "webhook_duration" {
  project         = var.project_id
  name            = "${var.name}/webhook_duration"
  description     = "How long webhooks took to be answered"
  filter          = "${local.lines} jsonPayload.message=\"webhook\" jsonPayload.duration_ms>=0"
  value_extractor = "EXTRACT(jsonPayload.duration_ms)"

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "DISTRIBUTION"
    unit        = "ms"
  }

  # 1 ms to 33 s, each bucket half as wide again as the one before.
  bucket_options {
    exponential_buckets {
      num_finite_buckets = 26
      growth_factor      = 1.5
      scale              = 1
    }
  }

  depends_on = [google_project_service.this]
}

resource "google_logging_metric" "warnings" {
  project     = var.project_id
  name        = "${var.name}/warnings"
  description = "Webhooks that were handled, but with a warning, such as a broken policy"
  filter      = "${local.lines} jsonPayload.message=\"webhook\" jsonPayload.warnings:*"

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"
  }

  depends_on = [google_project_service.this]
}

resource "google_logging_metric" "reconciled" {
  project     = var.project_id
  name        = "${var.name}/reconciled"
  description = "Runs of reconcile that came to their end"
  filter      = "${local.lines} jsonPayload.message=\"reconcile\" jsonPayload.status=200"

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"
  }

  depends_on = [google_project_service.this]
}

locals {
  lines     = "resource.type=\"cloud_run_revision\" resource.labels.service_name=~\"^${var.name}-(webhook|route|commands|reconcile)$\""
  on_run    = "resource.type=\"cloud_run_revision\""
  user_name = "metric.type=\"logging.googleapis.com/user"

  thresholds = {
    "webhooks fail" = {
      severity  = "CRITICAL"
      filter    = "${local.on_run} AND ${local.user_name}/${google_logging_metric.webhooks.name}\" AND metric.labels.status>=500"
      aligner   = "ALIGN_DELTA"
      reducer   = "REDUCE_SUM"
      above     = 0
      duration  = "300s"
      documents = "The function could not make webhooks durable, and GitHub has marked the deliveries as failed. reconcile delivers them again once it works. Look at the lines of the function with severity ERROR: Firestore that does not answer (503) and a bug of ours (500) look different there."
    }
    "webhooks are slow" = {
      severity  = "WARNING"
      filter    = "${local.on_run} AND ${local.user_name}/${google_logging_metric.webhook_duration.name}\""
      aligner   = "ALIGN_PERCENTILE_95"
      reducer   = "REDUCE_MAX"
      above     = 8000
      duration  = "300s"
      documents = "GitHub marks a delivery as failed after 10 s. The field github_ms of each line says how much of it GitHub was waited for; if that is not it, look for contention on the ledger, and lower webhook.max_instances."
    }
    "webhooks are not signed with our secret" = {
      severity  = "WARNING"
      filter    = "${local.on_run} AND ${local.user_name}/${google_logging_metric.webhooks.name}\" AND metric.labels.status=401"
      aligner   = "ALIGN_DELTA"
      reducer   = "REDUCE_SUM"
      above     = 10
      duration  = "300s"
      documents = "Either the secret was changed at GitHub and webhook_secret_versions does not name the new version, or somebody tries the door. The deliveries at GitHub tell which."
    }
    "webhooks come with warnings" = {
      severity  = "WARNING"
      filter    = "${local.on_run} AND ${local.user_name}/${google_logging_metric.warnings.name}\""
      aligner   = "ALIGN_DELTA"
      reducer   = "REDUCE_SUM"
      above     = 0
      duration  = "600s"
      documents = "Jobs are routed, but something is not as it should be: most often a policy that was edited and is broken, so that the last good one goes on. The lines say what; runyard policy validate says where."
    }
  }
}

resource "google_monitoring_alert_policy" "threshold" {
  for_each = local.thresholds

  project               = var.project_id
  display_name          = "${var.name}: ${each.key}"
  combiner              = "OR"
  severity              = each.value.severity
  notification_channels = var.monitoring.notification_channels
  user_labels           = var.labels

  conditions {
    display_name = each.key
    condition_threshold {
      filter          = each.value.filter
      comparison      = "COMPARISON_GT"
      threshold_value = each.value.above
      duration        = each.value.duration
      aggregations {
        alignment_period     = "60s"
        per_series_aligner   = each.value.aligner
        cross_series_reducer = each.value.reducer
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = each.value.documents
  }
}

resource "google_monitoring_alert_policy" "reconcile" {
  count = local.has_secrets ? 1 : 0

  project               = var.project_id
  display_name          = "${var.name}: reconcile does not run"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = var.monitoring.notification_channels
  user_labels           = var.labels

  conditions {
    display_name = "no run of reconcile came to its end for 15 minutes"
    condition_absent {
      filter   = "${local.on_run} AND ${local.user_name}/${google_logging_metric.reconciled.name}\""
      duration = "900s"
      aggregations {
        alignment_period     = "60s"
        per_series_aligner   = "ALIGN_DELTA"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "Lost webhooks are not delivered again, and jobs whose runner was lost wait. Look at Cloud Scheduler's last attempt and at the lines of ${var.name}-reconcile."
  }
}

resource "google_monitoring_uptime_check_config" "webhook" {
  count = local.has_secrets && var.monitoring.uptime_check ? 1 : 0

  project      = var.project_id
  display_name = "${var.name}: webhook function"
  timeout      = "10s"
  period       = "60s"

  http_check {
    path         = "/"
    port         = 443
    use_ssl      = true
    validate_ssl = true

    # It takes POST requests with a signature; that it says so shows that it is there and has read its settings.
    accepted_response_status_codes {
      status_value = 405
    }
  }

  monitored_resource {
    type = "uptime_url"
    labels = {
      project_id = var.project_id
      host       = trimprefix(google_cloudfunctions2_function.this["webhook"].service_config[0].uri, "https://")
    }
  }
}

resource "google_monitoring_alert_policy" "uptime" {
  count = length(google_monitoring_uptime_check_config.webhook)

  project               = var.project_id
  display_name          = "${var.name}: webhook function is away"
  combiner              = "OR"
  severity              = "CRITICAL"
  notification_channels = var.monitoring.notification_channels
  user_labels           = var.labels

  conditions {
    display_name = "asked from several continents, it did not answer"
    condition_threshold {
      filter          = "resource.type=\"uptime_url\" AND metric.type=\"monitoring.googleapis.com/uptime_check/check_passed\" AND metric.labels.check_id=\"${google_monitoring_uptime_check_config.webhook[0].uptime_check_id}\""
      comparison      = "COMPARISON_GT"
      threshold_value = 1
      duration        = "120s"
      aggregations {
        alignment_period     = "120s"
        per_series_aligner   = "ALIGN_NEXT_OLDER"
        cross_series_reducer = "REDUCE_COUNT_FALSE"
        group_by_fields      = ["resource.label.host"]
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "GitHub's deliveries fail, too. The lines of ${var.name}-webhook say why it does not start; a missing or wrong setting is told in full."
  }
}
