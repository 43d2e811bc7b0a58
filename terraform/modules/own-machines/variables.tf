variable "project_id" {
  description = "Google Cloud project."
  type        = string
}

variable "name" {
  description = "Prefix of everything that has a name."
  type        = string
}

variable "hosts" {
  description = "Subjects that may sign in: the sub of a host's token, or the common name of its certificate."
  type        = set(string)

  validation {
    condition     = length(var.hosts) > 0 && alltrue([for host in var.hosts : can(regex("^[^\\s'\"\\\\]{1,127}$", host))])
    error_message = "hosts: name at least one; at most 127 characters each, without spaces, quotes and backslashes."
  }
}

variable "oidc" {
  description = <<-EOT
    Hosts that show a token of an identity provider of yours.

    - issuer_uri: https://…, as in the tokens' iss
    - allowed_audiences: of the tokens; the provider's own resource name when empty
    - jwks_json: the provider's keys, when Google cannot fetch them
  EOT
  type = object({
    issuer_uri        = string
    allowed_audiences = optional(list(string), [])
    jwks_json         = optional(string)
  })
  default = null

  validation {
    condition     = var.oidc == null || startswith(try(var.oidc.issuer_uri, ""), "https://")
    error_message = "oidc.issuer_uri must start with https://."
  }
}

variable "x509" {
  description = <<-EOT
    Hosts that show a certificate.

    - trust_anchors: your certificate authorities, PEM
  EOT
  type = object({
    trust_anchors = list(string)
  })
  default = null

  validation {
    condition     = (var.x509 == null) != (var.oidc == null)
    error_message = "Give one of oidc (hosts show a token) and x509 (hosts show a certificate)."
  }
}

variable "documents_role" {
  description = "Role that lets a controller read, write and listen to documents."
  type        = string
}

variable "own_database" {
  description = "Condition that keeps the role to Runyard's database."
  type        = string
}
