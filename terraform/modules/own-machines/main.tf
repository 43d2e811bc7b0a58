resource "google_iam_workload_identity_pool" "this" {
  project                   = var.project_id
  workload_identity_pool_id = "${var.name}-hosts"
  display_name              = "Docker hosts of Runyard"
  description               = "Machines outside of Google that run controllers"
}

resource "google_iam_workload_identity_pool_provider" "this" {
  project                            = var.project_id
  workload_identity_pool_id          = google_iam_workload_identity_pool.this.workload_identity_pool_id
  workload_identity_pool_provider_id = "hosts"
  display_name                       = "Docker hosts"

  attribute_mapping = {
    "google.subject" = var.oidc == null ? "assertion.subject.dn.cn" : "assertion.sub"
  }

  # Nobody else gets a token, not even one that could do nothing.
  attribute_condition = "google.subject in [${join(", ", [for host in sort(var.hosts) : "'${host}'"])}]"

  dynamic "oidc" {
    for_each = var.oidc == null ? [] : [var.oidc]
    content {
      issuer_uri        = oidc.value.issuer_uri
      allowed_audiences = oidc.value.allowed_audiences
      jwks_json         = oidc.value.jwks_json
    }
  }

  dynamic "x509" {
    for_each = var.x509 == null ? [] : [var.x509]
    content {
      trust_store {
        dynamic "trust_anchors" {
          for_each = x509.value.trust_anchors
          content {
            pem_certificate = trust_anchors.value
          }
        }
      }
    }
  }
}

# The hosts themselves, without a service account that others could borrow.
resource "google_project_iam_member" "documents" {
  for_each = var.hosts

  project = var.project_id
  role    = var.documents_role
  member  = "principal://iam.googleapis.com/${google_iam_workload_identity_pool.this.name}/subject/${each.key}"

  condition {
    title      = "${var.name}: its own database"
    expression = var.own_database
  }
}
