locals {
  uses_app = var.github.app_id != null

  # What the functions read from secrets: the variable's name, the secret, and the version of it that counts.
  credential      = local.uses_app ? "github-app-key" : "github-token"
  credential_name = local.uses_app ? "GITHUB_APP_PRIVATE_KEY" : "GITHUB_TOKEN"
  credential_version = (
    local.uses_app ? var.github.app_key_version : var.github.token_version
  )

  # The functions cannot start without these, so they are deployed once somebody has put them into the secrets.
  has_secrets = local.credential_version != null && length(var.webhook_secret_versions) > 0
}

# Only the places: the values are added with gcloud and never pass through Terraform.
resource "google_secret_manager_secret" "this" {
  for_each = toset(["webhook-secret", local.credential])

  project   = var.project_id
  secret_id = "${var.name}-${each.key}"
  labels    = var.labels

  replication {
    auto {}
  }

  depends_on = [google_project_service.this]
}
