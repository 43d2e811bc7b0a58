output "webhook_url" {
  description = "Address for GitHub's webhook, or for the App's."
  value       = local.urls["webhook"]
}

output "route_url" {
  description = "Address for the route action of workflows."
  value       = local.urls["route"]
}

output "secrets" {
  description = "Secrets that want a value, by what belongs into them."
  value       = { for key, secret in google_secret_manager_secret.this : key => secret.secret_id }
}

output "service_accounts" {
  description = "E-mail addresses of the service accounts, by part."
  value       = { for key, account in google_service_account.this : key => account.email }
}

output "database" {
  description = "Name of the Firestore database, for runyard policy push and for controllers."
  value       = google_firestore_database.this.name
}

output "jobs_table" {
  description = "BigQuery table of completed jobs, or null."
  value       = var.bigquery.enabled ? "${var.project_id}.${google_bigquery_table.jobs[0].dataset_id}.jobs" : null
}

output "own_machines_credentials" {
  description = "Contents of GOOGLE_APPLICATION_CREDENTIALS on machines of your own, or null. It holds no secret."
  value       = var.own_machines == null ? null : module.own_machines[0].credentials
}

output "next_step" {
  description = "What is left to be done by hand."
  value = local.has_secrets ? "Nothing. Set GitHub's webhook to the address webhook_url, push a policy, start controllers." : join("\n", [
    "The functions are not deployed yet: their secrets are empty. Put the values in,",
    "  openssl rand -hex 32 | tr -d '\\n' | gcloud secrets versions add ${var.name}-webhook-secret --project ${var.project_id} --data-file=-",
    "  gcloud secrets versions add ${var.name}-${local.credential} --project ${var.project_id} --data-file=FILE",
    "then name the versions and apply again: webhook_secret_versions = [\"1\"], github = { ${local.uses_app ? "app_id = ..., app_key_version" : "token_version"} = \"1\" }",
  ])
}
