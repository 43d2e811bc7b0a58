locals {
  # In the order of the README's list of environment variables. A test holds them to functions/settings.py.
  environment = merge(
    {
      FUNCTION_USE_ASGI    = "true"
      GOOGLE_CLOUD_PROJECT = var.project_id
      FIRESTORE_DATABASE   = var.firestore.database
      GITHUB_API_URL       = var.github.api_url
    },
    local.uses_app ? { GITHUB_APP_ID = var.github.app_id } : {},
  )

  credentials = {
    (local.credential_name) = { secret = local.credential, version = local.credential_version }
  }

  webhook_secrets = {
    for position, version in var.webhook_secret_versions :
    ["GITHUB_WEBHOOK_SECRET", "GITHUB_WEBHOOK_SECRET_PREVIOUS"][position] => { secret = "webhook-secret", version = version }
  }

  functions = {
    webhook = {
      entry_point   = "github_webhook"
      description   = "Receives GitHub's webhooks, decides, and registers runners"
      timeout_s     = 30
      ingress       = "ALLOW_ALL"
      min_instances = var.webhook.min_instances
      max_instances = var.webhook.max_instances
      concurrency   = var.webhook.concurrency
      cpu           = var.webhook.cpu
      memory        = var.webhook.memory
      environment   = {}
      secrets       = merge(local.credentials, local.webhook_secrets)
    }
    route = {
      entry_point   = "route"
      description   = "Tells workflows which labels to use"
      timeout_s     = 30
      ingress       = "ALLOW_ALL"
      min_instances = var.route.min_instances
      max_instances = var.route.max_instances
      concurrency   = 80
      cpu           = "1"
      memory        = "512M"
      environment = {
        RUNYARD_AUDIENCE   = var.route.audience
        GITHUB_OIDC_ISSUER = var.github.oidc_issuer
      }
      secrets = local.credentials
    }
    commands = {
      entry_point = "commands"
      description = "Does what controllers ask for and cannot do themselves"
      timeout_s   = 60
      # Events come from inside.
      ingress       = "ALLOW_INTERNAL_ONLY"
      min_instances = 0
      max_instances = 2
      concurrency   = 80
      cpu           = "1"
      memory        = "512M"
      environment   = {}
      secrets       = local.credentials
      trigger       = { collection = "commands" }
    }
    reconcile = {
      entry_point = "reconcile"
      description = "Finds what was lost and finishes what was half done"
      timeout_s   = 300
      # Cloud Scheduler in the same project comes from inside.
      ingress       = "ALLOW_INTERNAL_ONLY"
      min_instances = 0
      # Two runs at a time would only get into each other's way.
      max_instances = 1
      concurrency   = 1
      cpu           = "1"
      memory        = "512M"
      environment = {
        RECONCILE_CALLER   = google_service_account.this["scheduler"].email
        RECONCILE_AUDIENCE = local.urls["reconcile"]
        RECONCILE_GRACE_S  = tostring(var.reconcile.grace_s)
        RECONCILE_REQUESTS = tostring(var.reconcile.requests)
        GITHUB_WEBHOOK_URL = local.urls["webhook"]
      }
      secrets = local.credentials
    }
  }

  # Known before the functions exist, so that one function can be told the address of another.
  urls = {
    for function in ["webhook", "route", "reconcile"] :
    function => "https://${var.region}-${var.project_id}.cloudfunctions.net/${var.name}-${function}"
  }
}

resource "google_storage_bucket" "archives" {
  #checkov:skip=CKV_GCP_62:it holds our published source code; audit logs tell who wrote

  project                     = var.project_id
  name                        = "${var.project_id}-${var.name}-archives"
  location                    = var.region
  labels                      = var.labels
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = true # whatever is in it can be made again

  versioning {
    enabled = true
  }

  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      num_newer_versions = 3
      with_state         = "ARCHIVED"
    }
  }

  depends_on = [google_project_service.this]
}

# Named by its hash: new content is a new object, and only that deploys.
resource "google_storage_bucket_object" "functions" {
  bucket = google_storage_bucket.archives.name
  name   = basename(var.archive)
  source = var.archive

  lifecycle {
    create_before_destroy = true
  }
}

resource "google_artifact_registry_repository" "functions" {
  #checkov:skip=CKV_GCP_84:it holds images of our published source code

  project       = var.project_id
  location      = var.region
  repository_id = "${var.name}-functions"
  description   = "Images that Cloud Build makes of the functions"
  format        = "DOCKER"
  labels        = var.labels

  cleanup_policies {
    id     = "keep-the-newest"
    action = "KEEP"
    most_recent_versions {
      keep_count = 5
    }
  }

  cleanup_policies {
    id     = "delete-the-others"
    action = "DELETE"
    condition {
      older_than = "2592000s"
    }
  }

  depends_on = [google_project_service.this]
}

resource "google_cloudfunctions2_function" "this" {
  #checkov:skip=CKV_GCP_124:GitHub and its workflows come from the internet, and sign what they send

  for_each = { for name, function in local.functions : name => function if local.has_secrets }

  project     = var.project_id
  location    = var.region
  name        = "${var.name}-${each.key}"
  description = each.value.description
  labels      = var.labels

  build_config {
    runtime           = var.runtime
    entry_point       = each.value.entry_point
    service_account   = google_service_account.this["build"].id
    docker_repository = google_artifact_registry_repository.functions.id

    # Google compiles the functions, but an image forgets the times of its files, by which Python knows whether a
    # compiled file is good. With this set it goes by their hash. Without it a cold start takes a tenth longer.
    environment_variables = {
      SOURCE_DATE_EPOCH = "315532801"
    }

    source {
      storage_source {
        bucket = google_storage_bucket.archives.name
        object = google_storage_bucket_object.functions.name
      }
    }
  }

  service_config {
    service_account_email            = google_service_account.this[each.key].email
    ingress_settings                 = each.value.ingress
    timeout_seconds                  = each.value.timeout_s
    min_instance_count               = each.value.min_instances
    max_instance_count               = each.value.max_instances
    max_instance_request_concurrency = each.value.concurrency
    available_cpu                    = each.value.cpu
    available_memory                 = each.value.memory
    all_traffic_on_latest_revision   = true
    environment_variables            = merge(local.environment, each.value.environment)

    dynamic "secret_environment_variables" {
      for_each = each.value.secrets
      content {
        key        = secret_environment_variables.key
        project_id = var.project_id
        secret     = google_secret_manager_secret.this[secret_environment_variables.value.secret].secret_id
        version    = secret_environment_variables.value.version
      }
    }
  }

  # Each new document of a collection starts the function, again and again until it has succeeded.
  dynamic "event_trigger" {
    for_each = try([each.value.trigger], [])
    content {
      trigger_region        = google_firestore_database.this.location_id
      event_type            = "google.cloud.firestore.document.v1.created"
      retry_policy          = "RETRY_POLICY_RETRY"
      service_account_email = google_service_account.this["trigger"].email

      event_filters {
        attribute = "database"
        value     = google_firestore_database.this.name
      }
      event_filters {
        attribute = "document"
        operator  = "match-path-pattern"
        value     = "${event_trigger.value.collection}/{id}"
      }
    }
  }

  depends_on = [
    google_artifact_registry_repository_iam_member.build,
    google_project_iam_member.build_logs,
    google_project_iam_member.build_source,
    google_project_iam_member.documents,
    google_project_iam_member.trigger,
    google_secret_manager_secret_iam_member.this,
  ]
}
