locals {
  audience = "//iam.googleapis.com/${google_iam_workload_identity_pool_provider.this.name}"

  # Source: Google's AIP-4117 (workload identity federation) for the form of this file.
  by_token = {
    type               = "external_account"
    universe_domain    = "googleapis.com"
    audience           = local.audience
    subject_token_type = "urn:ietf:params:oauth:token-type:jwt"
    token_url          = "https://sts.googleapis.com/v1/token"
    credential_source  = { file = "/etc/runyard/identity-token" }
  }

  by_certificate = {
    type               = "external_account"
    universe_domain    = "googleapis.com"
    audience           = local.audience
    subject_token_type = "urn:ietf:params:oauth:token-type:mtls"
    token_url          = "https://sts.mtls.googleapis.com/v1/token"
    credential_source = {
      certificate = { certificate_config_location = "/etc/runyard/certificate_config.json" }
    }
  }
}

output "credentials" {
  description = "Contents of GOOGLE_APPLICATION_CREDENTIALS on each host. It holds no secret, only where one is found."
  value       = var.oidc == null ? jsonencode(local.by_certificate) : jsonencode(local.by_token)
}

output "provider" {
  description = "Name of the provider: the audience of the hosts' tokens, unless others are allowed."
  value       = google_iam_workload_identity_pool_provider.this.name
}
